"""A stand-in for the parts of ComfyUI that the node pack speaks with, so that CI runs it: not ComfyUI, see tests/comfyui/test_real_comfyui.py.

The patcher protocol is as in ComfyUI 0.3.64; the model inside is diffusers' own Qwen-Image, whose layers have the same names there.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

PACK = Path(__file__).parents[1] / "comfyui"


class WrappersMP:
    """The kinds of wrappers that the pack uses."""

    OUTER_SAMPLE = "outer_sample"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"


class Executor:
    """Calls a chain of wrappers, each of which calls the rest, as WrapperExecutor does."""

    def __init__(self, original: Callable[..., Any], wrappers: list[Any], class_obj: Any = None) -> None:
        self.original, self.wrappers, self.class_obj = original, wrappers, class_obj

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Executor(self.original, self.wrappers[1:], self.class_obj).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrappers[0](self, *args, **kwargs) if self.wrappers else self.original(*args, **kwargs)


class Base(nn.Module):
    """BaseModel: the diffusion model, and how it is called."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, dict[str, Any]], Tensor]) -> None:
        super().__init__()
        self.diffusion_model, self.call = model, call
        self.model_config = types.SimpleNamespace(unet_config={})

    def apply_model(self, x: Tensor, t: Tensor, c_crossattn: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        def original(x: Tensor, t: Tensor, *_: Any, c_crossattn: Any = None, transformer_options: Any = None) -> Tensor:
            return self.call(self.diffusion_model, {"x": x, "t": t, "context": c_crossattn})

        wrappers = [each for key in transformer_options["wrappers"]["apply_model"].values() for each in key]
        return Executor(original, wrappers, self).execute(
            x, t, c_crossattn=c_crossattn, transformer_options=transformer_options
        )


class Patcher:
    """ModelPatcher: a model, and what is to be done around its runs."""

    def __init__(self, model: Base) -> None:
        self.model, self.patches = model, dict[str, list[Any]]()
        self.wrappers: dict[str, dict[str, list[Any]]] = {}

    def clone(self) -> "Patcher":
        made = Patcher(self.model)
        made.patches = dict(self.patches)
        made.wrappers = {
            kind: {key: list(all_) for key, all_ in keyed.items()} for kind, keyed in self.wrappers.items()
        }
        return made

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def get_key_patches(self, prefix: str) -> dict[str, list[Any]]:
        state = self.model.state_dict()
        return {
            key: [(state[key], lambda weight, **_: weight), *self.patches.get(key, [])]
            for key in state
            if key.startswith(prefix)
        }

    def sample(self, x: Tensor, texts: list[Tensor], sigmas: Tensor, order: tuple[int, ...] = (1, 0)) -> list[Tensor]:
        """Call the model once a step with a batch of both branches. Returns each output, the conditional rows last."""
        made: list[Tensor] = []
        wrappers = {
            kind: self.wrappers.get(kind, {"": []}) for kind in ("outer_sample", "calc_cond_batch", "apply_model")
        }

        def step(model: Base, conds: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> None:
            options = {**model_options["transformer_options"], "cond_or_uncond": list(order), "sigmas": timestep}
            rows = x.repeat(len(order), *[1] * (x.ndim - 1))
            text = torch.cat([texts[which].expand(x.shape[0], -1, -1) for which in order])
            made.append(model.apply_model(rows, timestep.expand(len(rows)), text, options))

        def run() -> None:
            for sigma in sigmas[:-1]:
                options = {"transformer_options": {"sample_sigmas": sigmas, "wrappers": wrappers}}
                around = [each for key in wrappers["calc_cond_batch"].values() for each in key]
                Executor(step, around).execute(self.model, [None, None], x, sigma[None], options)

        Executor(run, [each for key in wrappers["outer_sample"].values() for each in key]).execute()
        return made


@contextlib.contextmanager
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The node pack, in a ComfyUI that is this stand-in, with an empty models folder."""
    folders = types.ModuleType("folder_paths")
    folders.models_dir = str(tmp_path / "models")  # type: ignore[attr-defined]
    folders.folder_names_and_paths = {}  # type: ignore[attr-defined]
    folders.get_folder_paths = lambda name: folders.folder_names_and_paths[name][0]  # type: ignore[attr-defined]
    comfy = {name: types.ModuleType(f"comfy.{name}") for name in ("utils", "lora", "patcher_extension")}
    comfy["patcher_extension"].WrappersMP = WrappersMP  # type: ignore[attr-defined]
    comfy["lora"].calculate_weight = lambda patches, weight, _key: weight + sum(patches)  # type: ignore[attr-defined]
    root = types.ModuleType("comfy")
    for name, module in comfy.items():
        setattr(root, name, module)
        monkeypatch.setitem(sys.modules, f"comfy.{name}", module)
    monkeypatch.setitem(sys.modules, "comfy", root)
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    name = "eigenbank_comfyui_standin"
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    yield module
    for held in [each for each in sys.modules if each.startswith(f"{name}.")]:
        del sys.modules[held]
