"""The modes people run pipelines in, and what steering does in each: `python tests/modes.py` writes docs/modes.md.

In every mode, and for every way to edit, the same is looked at: does the edit change the picture, by what it changes it
outside of the mode; is the picture bit for bit the unedited one at scale 0, and after removal; is anything left behind.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import textpipes
import torch
from torch import Tensor

import eigenbank as eb
from eigenbank.loaders.schedule import windowed
from eigenbank.schemas.errors import EigenbankError

DOCS = Path(__file__).parent.parent / "docs" / "modes.md"
STEPS = 4
NOT_RUN = "–"


@dataclass(frozen=True)
class Mode:
    """A mode: how a pipeline is put into it. `inside` are entered while the edit is attached already.

    `tolerance` is how far, as a share of its size, the edit may differ from the same edit outside of the mode; None where
    the mode changes what the denoiser computes, so that there is nothing to compare with.
    """

    name: str
    how: str
    enter: Callable[[Any], Any]
    make: Callable[[], Any] = textpipes.stable_diffusion
    tolerance: float | None = 1e-3
    inside: bool = False
    dtype: torch.dtype = torch.float32
    more: Callable[[int], dict[str, Any]] = lambda _n: {}
    slow: bool = False
    edits: tuple[int, ...] = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Edit:
    """A way to edit: what is passed to steer, of which scale."""

    name: str
    scale: Any
    options: dict[str, Any] = field(hash=False)


EDITS = (
    Edit("whole run", 0.5, {}),
    Edit("scale per sample, part of the run", lambda s: windowed([0.5 * s, -0.5 * s], 0.25, 1.0), {}),
    Edit("conditional branch", 0.5, {"branch": "cond"}),
    Edit(
        "masked", 0.5, {"mask": torch.tensor([[0.0, 1.0], [0.0, 1.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)}
    ),
    Edit("fused", 0.5, {"fuse": True, "site": "output"}),
)


def _unet(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def _half(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda pipe: pipe.to(dtype=dtype)


def _lora(pipe: Any) -> None:
    from peft import LoraConfig

    torch.manual_seed(3)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    _unet(pipe).add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def _fused_lora(pipe: Any) -> None:
    _lora(pipe)
    pipe.unet.fuse_lora(lora_scale=0.05)


def _ip_adapter(pipe: Any) -> None:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor
    from diffusers.models.embeddings import ImageProjection

    torch.manual_seed(3)
    weights, number = {}, 1
    for name in pipe.unet.attn_processors:
        if not name.endswith("attn1.processor"):
            width = 32 if name.startswith("mid") else 16
            made = IPAdapterAttnProcessor(hidden_size=width, cross_attention_dim=16, scale=1.0).state_dict()
            weights[f"{number}.to_k_ip.weight"], weights[f"{number}.to_v_ip.weight"] = (
                made["to_k_ip.0.weight"],
                made["to_v_ip.0.weight"],
            )
            number += 2
    made = ImageProjection(cross_attention_dim=16, image_embed_dim=8, num_image_text_embeds=4).state_dict()
    projection = {
        "proj.weight": made["image_embeds.weight"], "proj.bias": made["image_embeds.bias"], "norm.weight": made["norm.weight"],
        "norm.bias": made["norm.bias"],
    }  # fmt: skip
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])


def _group(**options: Any) -> Callable[[Any], Any]:
    def enter(pipe: Any) -> None:
        from diffusers.hooks import apply_group_offloading

        cpu = torch.device("cpu")
        apply_group_offloading(pipe.unet, onload_device=cpu, offload_device=cpu, **options)

    return enter


def _sequential(pipe: Any) -> None:
    import accelerate

    for module in (pipe.unet, pipe.vae):
        accelerate.cpu_offload(module, torch.device("cpu"), offload_buffers=True)


def _layerwise(pipe: Any) -> None:
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def _compiled(pipe: Any) -> None:
    torch._dynamo.reset()
    pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")


def _compiled_in_place(pipe: Any) -> None:
    torch._dynamo.reset()
    pipe.transformer.compile(backend="aot_eager")


def _compiled_blocks(pipe: Any) -> None:
    torch._dynamo.reset()
    pipe.transformer.compile_repeated_blocks(backend="aot_eager")


def _cached(name: str, **options: Any) -> Callable[[Any], Any]:
    def enter(pipe: Any) -> None:
        import diffusers

        made = dict(options)
        if "current_timestep_callback" in made:
            made["current_timestep_callback"] = lambda: pipe.current_timestep
        pipe.transformer.enable_cache(getattr(diffusers, name)(**made))

    return enter


_RANGE = {
    "spatial_attention_block_skip_range": 2,
    "spatial_attention_timestep_skip_range": (-1, 2000),
    "current_timestep_callback": None,
}
_FASTER = {
    **_RANGE,
    "spatial_attention_timestep_skip_range": (-1, 800),
    "unconditional_batch_skip_range": 2,
    "unconditional_batch_timestep_skip_range": (-1, 2000),
    "attention_weight_callback": lambda _module: 0.3,
}
_IP = {"more": lambda n: {"ip_adapter_image_embeds": [torch.ones(2 * n, 1, 8)]}}

MODES = (
    Mode("none", "float32 on the CPU", lambda pipe: None),
    Mode("none, FLUX", "float32 on the CPU", lambda pipe: None, textpipes.flux),
    Mode("none, Wan", "float32 on the CPU", lambda pipe: None, textpipes.wan),
    Mode("none, CogVideoX", "float32 on the CPU", lambda pipe: None, textpipes.cogvideox),
    Mode("float16", "`pipe.to(dtype=torch.float16)`", _half(torch.float16), dtype=torch.float16, tolerance=0.3),
    Mode("bfloat16", "`pipe.to(dtype=torch.bfloat16)`", _half(torch.bfloat16), dtype=torch.bfloat16, tolerance=None),
    Mode("bfloat16, FLUX", "`pipe.to(dtype=torch.bfloat16)`", _half(torch.bfloat16), textpipes.flux, dtype=torch.bfloat16, tolerance=None),
    Mode("layerwise casting", "`enable_layerwise_casting`, float8 weights", _layerwise, tolerance=None),
    Mode("attention slicing", "`enable_attention_slicing(1)`", lambda pipe: pipe.enable_attention_slicing(1)),
    Mode("fused projections", "`fuse_qkv_projections()`", lambda pipe: pipe.fuse_qkv_projections()),
    Mode("attention processors", "`set_attn_processor(AttnProcessor())` while steered", lambda pipe: pipe.unet.set_default_attn_processor(), inside=True),
    Mode("attention backend", "`set_attention_backend(\"_native_math\")`", lambda pipe: pipe.transformer.set_attention_backend("_native_math"), textpipes.flux),
    Mode("channels last", "`unet.to(memory_format=torch.channels_last)`", lambda pipe: pipe.unet.to(memory_format=torch.channels_last)),
    Mode("FreeU", "`enable_freeu(…)`", lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4), tolerance=None),
    Mode("LoRA, loaded before", "PEFT adapter on q, k, v and out", _lora, tolerance=None),
    Mode("LoRA, loaded while steered", "the same", _lora, tolerance=None, inside=True),
    Mode("LoRA, fused", "`fuse_lora()`: matched as a transfer", _fused_lora, tolerance=None),
    Mode("LoRA, FLUX", "PEFT adapter on q, k, v and out", _lora, textpipes.flux, tolerance=None),
    Mode("IP-Adapter, loaded before", "one image", _ip_adapter, tolerance=None, **_IP),
    Mode("IP-Adapter, loaded while steered", "one image", _ip_adapter, tolerance=None, inside=True, **_IP),
    Mode("model offload", "`enable_model_cpu_offload(device=\"cpu\")`", lambda pipe: pipe.enable_model_cpu_offload(device="cpu")),
    Mode("sequential offload", "`accelerate.cpu_offload(unet)`, weights on the meta device", _sequential),
    Mode("group offload, by leaf", "`apply_group_offloading(unet, offload_type=\"leaf_level\")`", _group(offload_type="leaf_level")),
    Mode("group offload, by block", "`offload_type=\"block_level\"`", _group(offload_type="block_level", num_blocks_per_group=1)),
    Mode("torch.compile, FLUX", "`pipe.transformer = torch.compile(pipe.transformer)`", _compiled, textpipes.flux, slow=True, edits=(0, 1)),
    Mode("compile in place, FLUX", "`pipe.transformer.compile()`", _compiled_in_place, textpipes.flux, slow=True, edits=(0, 1)),
    Mode("compile by block, FLUX", "`transformer.compile_repeated_blocks()`", _compiled_blocks, textpipes.flux, slow=True, edits=(0, 1)),
    Mode("Pyramid Attention Broadcast", "`enable_cache(PyramidAttentionBroadcastConfig(…))`", _cached("PyramidAttentionBroadcastConfig", **_RANGE), textpipes.flux, tolerance=None),
    Mode("FasterCache, CogVideoX", "`enable_cache(FasterCacheConfig(…))`", _cached("FasterCacheConfig", **_FASTER, tensor_format="BFCHW"), textpipes.cogvideox, tolerance=None),
    Mode("FasterCache, FLUX", "the same, `is_guidance_distilled=True`", _cached("FasterCacheConfig", **_FASTER, is_guidance_distilled=True), textpipes.flux, tolerance=None, more=lambda _n: {"true_cfg_scale": 1.0}),
    Mode("First Block Cache", "`enable_cache(FirstBlockCacheConfig(threshold=0.3))`", _cached("FirstBlockCacheConfig", threshold=0.3), textpipes.flux, tolerance=None),
    Mode("TaylorSeer", "`enable_cache(TaylorSeerCacheConfig(…))`", _cached("TaylorSeerCacheConfig", cache_interval=2, disable_cache_before_step=1), textpipes.flux, tolerance=None),
    Mode("MagCache", "`enable_cache(MagCacheConfig(…))`", _cached("MagCacheConfig", num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS, retention_ratio=0.25, max_skip_steps=1), textpipes.flux, tolerance=None),
)  # fmt: skip


class ModeError(AssertionError):
    """Something that must hold in a mode did not."""


def outcome(mode: Mode, edit: Edit) -> str:
    """`works`, or `refused: …`. Raises ModeError where neither is true."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _outcome(mode, edit)


def _edits(pipe: Any, edit: Edit) -> dict[Any, Any]:
    """Three directions of the pipeline's weights as they are now, and their scale."""
    bank = textpipes.bank_for(pipe)
    chosen = [direction for direction in bank if bank.layers[direction.layer].kind != "temporal"][:3]
    return dict.fromkeys(chosen, edit.scale(1.0) if callable(edit.scale) else edit.scale)


@cache
def _reference(make: Callable[[], Any], edit: Edit) -> Tensor | None:
    """What an edit changes outside of any mode; None where it is refused there too."""
    pipe = make()
    plain = textpipes.draw(pipe, 2, STEPS)
    try:
        with eb.steer(pipe, _edits(pipe, edit), **edit.options):
            return textpipes.draw(pipe, 2, STEPS) - plain
    except EigenbankError:
        return None


def _outcome(mode: Mode, edit: Edit) -> str:
    pipe = mode.make()
    # Made before the mode is entered: a set belongs to the weights as they were published.
    edits = _edits(pipe, edit)

    def draw() -> Tensor:
        return textpipes.draw(pipe, 2, STEPS, dtype=mode.dtype, **mode.more(2)).float()

    reference = None if mode.tolerance is None else _reference(mode.make, edit)
    if not mode.inside:
        mode.enter(pipe)
    before = None if mode.inside else draw()
    hooks = _hooks(pipe)
    handle = None
    try:
        handle = eb.steer(pipe, edits, **edit.options).attach()
        if mode.inside:
            mode.enter(pipe)
        edited = draw()
    except EigenbankError as error:
        if handle is not None:
            handle.remove()
        if before is not None and not torch.equal(draw(), before):
            message = f"{mode.name}, {edit.name}: refused, and yet the picture is another"
            raise ModeError(message) from error
        return f"refused: {error}"
    for direction in edits:
        handle.set_scale(_none(edit), direction.id)
    zero = draw()
    handle.remove()
    after = draw()
    problems = [
        ("scale 0 is not the unedited picture", not torch.equal(zero, after if before is None else before)),
        ("removal does not restore the picture", before is not None and not torch.equal(after, before)),
        ("the edit changes nothing", bool(torch.equal(edited, after))),
        ("the edit gives no numbers", not bool(edited.isfinite().all())),
        ("something is left behind", not mode.inside and _hooks(pipe) != hooks),
    ]
    if reference is not None and mode.tolerance is not None:
        error = float(((edited - after) - reference).norm() / reference.norm())
        problems.append((f"the edit is {error:.3f} off what it is outside of the mode", error > mode.tolerance))
    found = [text for text, bad in problems if bad]
    if found:
        message = f"{mode.name}, {edit.name}: {'; '.join(found)}"
        raise ModeError(message)
    return "works"


def _none(edit: Edit) -> Any:
    return edit.scale(0.0) if callable(edit.scale) else 0.0


def _hooks(pipe: Any) -> dict[str, list[str]]:
    """Names of what diffusers' registries hold on each module."""
    found = {}
    for name, module in _unet(pipe).named_modules():
        registry = module.__dict__.get("_diffusers_hook")
        if registry is not None and registry.hooks:
            found[name] = list(registry.hooks)
    return found


def row(mode: Mode) -> str:
    """A mode's row of the table."""
    cells = [_short(outcome(mode, edit)) if number in mode.edits else NOT_RUN for number, edit in enumerate(EDITS)]
    return f"| {mode.name} | {mode.how} | {' | '.join(cells)} |"


def _short(cell: str) -> str:
    return cell if cell == "works" else f"refused: {cell.removeprefix('refused: ').split(': ')[-1].split('. ')[0]}"


HEAD = f"""# Steering, mode by mode

Written by `python tests/modes.py`; tests run every row and compare. Tiny pipelines with random weights (Stable Diffusion's layout unless another is named), {STEPS} steps, two samples,
guidance on, three directions at once.

- `works`: the edit changes the picture, by the same as outside of the mode if the mode computes the same; at scale 0 and after removal the picture is bit for bit the unedited one of
  that mode; nothing is left on the modules.
- `refused`: an error before or in the first pass, and the pipeline is what it was. `–`: not run.

Compiling is tested with the backend `aot_eager`; changing a scale does not recompile (`tests/loaders/test_compile.py`). Offload is tested between CPU and CPU.

| mode | how | {" | ".join(edit.name for edit in EDITS)} |
|---|---|{"---|" * len(EDITS)}
"""


def main() -> None:
    """Run every mode and write the table."""
    rows = []
    for mode in MODES:
        with contextlib.redirect_stdout(sys.stderr):
            rows.append(row(mode))
        print(rows[-1], file=sys.stderr, flush=True)
    DOCS.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
