"""What eigenbank relies on in other libraries without their promise is still there, and read in one file only.

These tests run before all others (see `conftest.py`): where one fails, a new release of that library changed something, and
`src/eigenbank/diffusers_compat.py` is where to adapt to it.
"""

import ast
import types
from pathlib import Path
from typing import Any

import diffusers
import pytest
import textpipes
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from eigenbank import diffusers_compat as compat

SRC = Path(__file__).parent.parent / "src" / "eigenbank"
PUBLIC = {
    "_asdict": "a NamedTuple's method",
    "_fields": "a NamedTuple's attribute",
    "_replace": "a NamedTuple's method",
    "_exit": "os._exit leaves a killed worker without clean-up",
    "_class_name": "the key of a diffusers config.json that names the class",
}
"""Names with an underscore that are no private attributes, and what they are."""


def changed(library: Any, function: Any) -> str:
    """The message of a failure: which library changed, and what to adapt."""
    return f"{library.__name__} {library.__version__} changed what {function.__name__} relies on: {function.__doc__}"


@pytest.fixture
def unet(tiny_checkpoint: Path) -> Any:
    return diffusers.UNet2DModel.from_pretrained(tiny_checkpoint, subfolder="unet")


def test_torch_compile_wraps_a_module() -> None:
    module = nn.Linear(2, 2)
    wrapper = torch.compile(module, backend="eager")
    assert compat.compiled_from(wrapper) is module, changed(torch, compat.compiled_from)  # type: ignore[arg-type]
    assert compat.compiled_from(module) is None


def test_torch_compiles_a_module_in_place() -> None:
    module = nn.Linear(2, 2)
    assert compat.compiled_call(module) is None
    module.compile(backend="eager")
    assert callable(compat.compiled_call(module)), changed(torch, compat.compiled_call)
    compat.set_compiled_call(module, lambda _x: "ours")
    assert module(torch.zeros(1, 2)) == "ours", changed(torch, compat.set_compiled_call)


def test_torch_keeps_a_modules_tensors_in_tables() -> None:
    module = nn.BatchNorm1d(2)
    parameters, buffers = compat.tensor_tables(module)
    parameters["weight"] = nn.Parameter(torch.ones(1).expand(2))
    buffers["running_mean"] = torch.full((2,), 3.0)
    assert module.weight.stride() == (0,), changed(torch, compat.tensor_tables)
    assert module.running_mean.tolist() == [3, 3], changed(torch, compat.tensor_tables)  # type: ignore[union-attr,operator]


def test_pipelines_say_whether_they_guide_by_the_scale_of_their_call() -> None:
    pipe = object.__new__(diffusers.StableDiffusionPipeline)
    pipe.unet = torch.nn.Identity()
    pipe.unet.config = types.SimpleNamespace(time_cond_proj_dim=None)
    assert compat.guides_at(pipe, 7.5), changed(diffusers, compat.guides_at)
    assert not compat.guides_at(pipe, 1.0), changed(diffusers, compat.guides_at)


def test_torch_convolutions_have_one_base() -> None:
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d):
        assert compat.is_convolution(kind(2, 2, 1)), changed(torch, compat.is_convolution)
    assert not compat.is_convolution(nn.Linear(2, 2))


def test_torch_functions_can_be_left_out() -> None:
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    tensor = torch.zeros(2).as_subclass(Watched)
    with compat.without_torch_function():
        _ = tensor + 1
    assert not seen, changed(torch, compat.without_torch_function)
    _ = tensor + 1
    assert seen


def test_accelerate_keeps_offloaded_weights_elsewhere() -> None:
    accelerate = pytest.importorskip("accelerate")
    module = nn.Sequential(nn.Linear(2, 2))
    weight = module[0].weight.detach().clone()
    assert not compat.has_accelerate_hook(module[0])
    accelerate.cpu_offload(module, torch.device("cpu"))
    assert compat.has_accelerate_hook(module[0]), changed(accelerate, compat.has_accelerate_hook)
    kept = compat.offloaded_weight(module[0], "weight")
    assert kept is not None, changed(accelerate, compat.offloaded_weight)
    assert torch.equal(kept, weight), changed(accelerate, compat.offloaded_weight)
    assert compat.offloaded_weight(nn.Linear(2, 2), "weight") is None


def test_diffusers_keeps_hooks_in_a_registry_on_the_module() -> None:
    module = nn.Linear(2, 2)
    assert compat.hook_registry(module) is None
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(ModelHook(), "theirs")
    assert compat.hook_registry(module) is registry, changed(diffusers, compat.hook_registry)
    assert list(registry.hooks) == ["theirs"], changed(diffusers, compat.hook_registry)


def test_modular_pipelines_say_where_their_run_is_and_what_their_guider_asks_for(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (pip install 'eigenbank[text]')")
    from loaders.test_modular import draw, modular

    pipe, _ = modular("sdxl", tmp_path / "sdxl")
    found: list[Any] = []
    pipe.unet.register_forward_pre_hook(lambda *_: found.append(compat.running_pipeline()))
    draw(pipe)
    assert [owner is pipe for owner, _ in found] == [True] * 8, changed(diffusers, compat.running_pipeline)
    where = [(local["i"], len(local["timesteps"])) for _, local in found]
    assert where == [(step, 4) for step in range(4) for _ in range(2)], changed(diffusers, compat.running_pipeline)
    asked = [compat.guider_branch(local) for _, local in found]
    assert asked == ["pred_cond", "pred_uncond"] * 4, changed(diffusers, compat.guider_branch)


def test_diffusers_pipelines_say_where_their_run_is() -> None:
    assert compat.running_pipeline() is None
    pipe = textpipes.stable_diffusion()
    found: list[Any] = []
    pipe.unet.register_forward_pre_hook(lambda *_: found.append(compat.running_pipeline()))
    textpipes.draw(pipe, steps=3)
    assert [owner is pipe for owner, _ in found] == [True] * 3, changed(diffusers, compat.running_pipeline)
    where = [(local["i"], len(local["timesteps"])) for _, local in found]
    assert where == [(0, 3), (1, 3), (2, 3)], changed(diffusers, compat.running_pipeline)
    assert "negative_prompt_embeds" in found[0][1], changed(diffusers, compat.running_pipeline)


def test_peft_s_layers_are_named_and_forgotten() -> None:
    peft = pytest.importorskip("peft")
    unet = textpipes.stable_diffusion().unet
    before = sorted(vars(unet))
    unet.add_adapter(peft.LoraConfig(r=1, target_modules=["to_q"]), adapter_name="one")
    layers = [each for each in unet.modules() if hasattr(each, "adapter_layer_names")]
    assert all("one" in each.lora_A and each.active_adapters == ["one"] for each in layers), changed(
        peft, compat.forget_adapters
    )
    for each in layers:
        each.set_scale("one", 2.0)
        assert each.scaling["one"] == 2.0 * each.lora_alpha["one"] / each.r["one"]
        each.set_adapter([])
        each.delete_adapter("one")
        assert isinstance(each.get_base_layer(), nn.Linear)
    compat.forget_adapters(unet)
    assert layers
    assert sorted(vars(unet)) == before, changed(peft, compat.forget_adapters)


def test_diffusers_says_where_it_loaded_from(tiny_checkpoint: Path, unet: Any) -> None:
    pipe = diffusers.DDPMPipeline.from_pretrained(tiny_checkpoint)
    assert compat.loaded_from(pipe) == str(tiny_checkpoint), changed(diffusers, compat.loaded_from)
    assert str(compat.loaded_from(unet)).startswith(str(tiny_checkpoint)), changed(diffusers, compat.loaded_from)
    made = diffusers.DDPMPipeline(unet=unet, scheduler=pipe.scheduler)
    assert compat.loaded_from(made) is None
    compat.set_loaded_from(made, tiny_checkpoint)
    assert compat.loaded_from(made) == str(tiny_checkpoint), changed(diffusers, compat.set_loaded_from)


def test_diffusers_pipelines_know_their_device_and_pack_latents(tiny_checkpoint: Path) -> None:
    pipe = diffusers.DDPMPipeline.from_pretrained(tiny_checkpoint)
    assert isinstance(pipe._execution_device, torch.device), changed(diffusers, compat.execution_device)
    assert compat.execution_device(pipe) == torch.device("cpu")
    latents = torch.randn(1, 4, 4, 6)
    assert compat.packed_latents(pipe, latents) is latents

    class Packing:
        _pack_latents = staticmethod(diffusers.FluxPipeline._pack_latents)
        _unpack_latents = staticmethod(diffusers.FluxPipeline._unpack_latents)
        vae_scale_factor = 8

    packed = compat.packed_latents(Packing(), latents)
    assert packed.shape == (1, 6, 16), changed(diffusers, compat.packed_latents)
    again = compat.unpacked_latents(Packing(), packed, 32, 48)
    assert torch.equal(again, latents), changed(diffusers, compat.unpacked_latents)


@pytest.mark.parametrize(
    ("kind", "name", "in_turn"),
    [
        ("StableDiffusionPipeline", "unet", False),
        ("CogVideoXPipeline", "transformer", False),
        ("FluxPipeline", "transformer", True),
    ],
)
def test_diffusers_pipelines_show_how_they_call_their_denoiser(kind: str, name: str, in_turn: bool) -> None:
    owner = object.__new__(getattr(diffusers, kind))
    assert compat.calls_in_turn(owner, [name]) is in_turn, changed(diffusers, compat.calls_in_turn)


def _is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and name != "_" and not name.startswith("__")


def _own_names(trees: dict[Path, ast.Module]) -> set[str]:
    """Private names that the package itself defines: functions, classes, variables, attributes, slots and arguments."""
    own: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("self", "cls")
            ):
                own.add(node.attr)
    return own


def test_no_other_file_reads_private_attributes_of_libraries() -> None:
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in SRC.rglob("*.py")
        if path.name != "diffusers_compat.py"
    }
    own = _own_names(trees)
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names: list[object] = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
                if node.attr in ("getsource", "getsourcelines"):
                    found.append(f"{path.relative_to(SRC)}:{node.lineno}: {node.attr}")
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
                names = [getattr(node.args[1], "value", None)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                names = [getattr(node.args[0], "value", None)] if node.args else []
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("eigenbank"):
                names = [*(node.module or "").split("."), *(each.name for each in node.names)]
            # Marks of ours on tensors start with `_eb_`.
            found += [
                f"{path.relative_to(SRC)}:{node.lineno}: {name}"  # type: ignore[attr-defined]
                for name in names
                if _is_private(name) and name not in own and name not in PUBLIC and not str(name).startswith("_eb_")
            ]
    assert not found, f"private attributes of libraries belong into eigenbank/diffusers_compat.py: {found}"
