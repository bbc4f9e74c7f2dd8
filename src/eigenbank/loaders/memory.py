"""Memory: how many pictures to generate at once on a device, and smaller batches where that was too many."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import nn

from eigenbank.diffusers_compat import execution_device
from eigenbank.loaders.drawing import as_drawing, image_size, parameters_of, part_of, passes_of
from eigenbank.loaders.pipelines import denoiser_of
from eigenbank.progress import log_warning
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import SteerError

MOST, MOST_PIXELS = 1024, 16 * 1024**2
"""Most pictures and pixels at once on an accelerator: more are no faster, and nothing is reported or kept meanwhile."""
MOST_CPU, MOST_PIXELS_CPU = 64, 1024**2
"""The same on a CPU."""
SHARE = 0.85
"""The share of the free memory to plan with: libraries take some to work in, and some is lost between blocks."""
T = TypeVar("T")


def batch_size(pipe: Any, *, drawing: Drawing | None = None, free: int | None = None, **call: Any) -> int:
    """Return how many pictures to generate at once on the pipeline's device; `call` is what the pipeline will be given.

    `free` is the memory in bytes to plan with, by default what the device has free now.
    """
    drawing = as_drawing(drawing, call)
    device = execution_device(pipe) if hasattr(pipe, "device") else torch.device("cpu")
    height, width = image_size(pipe, drawing, call) or (128, 128)
    frames = call.get("num_frames") or getattr(parameters_of(pipe).get("num_frames"), "default", None)
    frames = frames if isinstance(frames, int) else 1
    most, pixels = (MOST_CPU, MOST_PIXELS_CPU) if device.type == "cpu" else (MOST, MOST_PIXELS)
    most = min(most, pixels // (height * width * frames))
    free = free_bytes(device) if free is None else free
    if most > 1 and free is not None:
        denoising, decoding = picture_bytes(pipe, height, width, frames, guided=passes_of(pipe, drawing) > 1)
        most = min(most, int((SHARE * free - _waiting(pipe, device) - decoding) // denoising))
    return max(1, most)


def picture_bytes(pipe: Any, height: int, width: int, frames: int = 1, *, guided: bool = True) -> tuple[float, float]:
    """Estimate the bytes that generating one more picture takes, beside the weights: while denoising, and while decoding.

    Denoising, a U-Net holds its skip connections and what its widest block works on; a transformer the tokens of one block.
    Decoding, of one picture, a VAE holds about five of the widest maps of its last block. `benchmarks/memory.py` compares the
    estimates with measured peaks.
    """
    denoiser: Any = denoiser_of(pipe)
    config: Any = getattr(denoiser, "config", None)
    vae = part_of(pipe, "vae", "vqvae")
    factor = (
        (getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None) or 1)
        if vae is not None
        else 1
    )
    shrunk = getattr(pipe, "vae_scale_factor_temporal", None) or 1
    places = height * width / factor**2 * (1 + (frames - 1) // shrunk)
    widest = max(
        (each.in_features + each.out_features for each in denoiser.modules() if isinstance(each, nn.Linear)), default=0
    )
    channels = getattr(config, "block_out_channels", None)
    if channels:
        layers = getattr(config, "layers_per_block", 2)
        layers = layers if isinstance(layers, (list, tuple)) else [layers] * len(channels)
        levels = list(zip(channels, layers, strict=False))
        skips = sum((layer + 1) * channel / 4**level for level, (channel, layer) in enumerate(levels))
        # A block of convolutions works on ten maps, one of attention on those of its feed-forward too.
        attends = _attending(config, len(levels))
        working = max((24 if attends[n] else 10) * channel / 4**n for n, (channel, _) in enumerate(levels))
        values = places * (skips + working)
    else:
        patch = getattr(config, "patch_size", None) or 1
        area = prod(patch[-2:]) if isinstance(patch, (list, tuple)) else patch**2
        if getattr(config, "in_channels", 0) == 4 * (getattr(getattr(vae, "config", None), "latent_channels", 0) or -1):
            area *= 4  # FLUX and its like are given two by two latents as one
        values = (places / area + 512) * 2 * widest
    denoising = values * _item_bytes(denoiser) * (2 if guided else 1)
    decoding = 0.0
    if vae is not None:
        widths = getattr(getattr(vae, "config", None), "block_out_channels", None) or [128, 256]
        upcast = bool(getattr(getattr(vae, "config", None), "force_upcast", False))
        decoding = (
            height * width * min(frames, 8) * 5 * widths[min(1, len(widths) - 1)] * (4 if upcast else _item_bytes(vae))
        )
    return denoising, decoding


def _attending(config: Any, levels: int) -> list[bool]:
    """Whether each level of a U-Net has attention."""
    kinds = list(getattr(config, "down_block_types", None) or [""] * levels)
    return ["Attn" in str(kind) for kind in kinds]


def _item_bytes(module: nn.Module) -> int:
    """Bytes of a value in the dtype a network computes in."""
    sizes = [
        each.element_size() for each in module.parameters() if each.is_floating_point() and each.element_size() > 1
    ]
    return sizes[0] if sizes else 2


def _waiting(pipe: Any, device: torch.device) -> int:
    """Bytes of the largest network that is still to come to the device, under offload."""
    parts = [each for each in (getattr(pipe, "components", None) or {}).values() if isinstance(each, nn.Module)]
    away = [[each for each in part.parameters() if each.device.type != device.type] for part in parts]
    return max((sum(each.numel() * each.element_size() for each in part) for part in away), default=0)


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device, what torch keeps for reuse included; None where it is not told."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.type == "cpu" else None
    except (AttributeError, OSError, ValueError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of whatever device: torch has an error of its own for some of them only."""
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (isinstance(error, RuntimeError) and said)


def in_batches(
    items: Sequence[T], batch: int, generate: Callable[[Sequence[T]], Any]
) -> Iterator[tuple[Sequence[T], Any]]:
    """Yield so many of the items at once, with what is generated for them; half as many once memory does not suffice.

    Raises SteerError where it does not suffice for one.
    """
    done = 0
    while done < len(items):
        part = items[done : done + batch]
        made = _tried(lambda part=part: generate(part))  # type: ignore[misc]
        if isinstance(made, str):
            if len(part) == 1:
                problem = f"memory does not suffice for a single picture ({made})"
                advice = "Open the pipeline in half precision (dtype) or with offload, or draw smaller pictures (size)"
                raise SteerError(problem, outcome="nothing was drawn", advice=advice)
            batch = len(part) // 2
        else:
            done += len(part)
            yield part, made[0]


def _tried(make: Callable[[], T]) -> tuple[T] | str:
    """What was made, or, where memory ran out, the first line of the error, which holds what did not fit."""
    try:
        return (make(),)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0][:200] or type(error).__name__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    return said


@contextlib.contextmanager
def split_decoding(pipe: Any) -> Iterator[None]:
    """Inside, a VAE whose memory runs out decodes one picture at a time, and if that fails too, tile by tile."""
    with contextlib.ExitStack() as stack:
        for name in ("vae", "vqvae", "movq"):
            vae = getattr(pipe, name, None)
            if callable(getattr(vae, "decode", None)):
                stack.enter_context(_splitting(vae))
        yield


@contextlib.contextmanager
def _splitting(vae: Any) -> Iterator[None]:
    whole, own = vae.decode, "decode" in vars(vae)
    before = {name: getattr(vae, name) for name in ("use_slicing", "use_tiling") if hasattr(vae, name)}

    def decode(*args: Any, **kwargs: Any) -> Any:
        said = ""
        for turn_on in (None, "enable_slicing", "enable_tiling"):
            if turn_on is not None:
                if not hasattr(vae, turn_on):
                    continue
                getattr(vae, turn_on)()
                if turn_on == "enable_tiling":
                    log_warning(
                        "memory does not suffice to decode a whole picture: tiles are decoded, whose seams may show"
                    )
            made = _tried(lambda: whole(*args, **kwargs))
            if not isinstance(made, str):
                return made[0]
            said = made
        raise torch.OutOfMemoryError(said)

    vae.decode = decode
    try:
        yield
    finally:
        if own:
            vae.decode = whole
        else:
            del vae.decode
        for name, value in before.items():
            setattr(vae, name, value)
