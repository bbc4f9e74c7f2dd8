"""Read pictures out of what a pipeline returns: images or videos, one channel or three, and what it withheld of them."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eigenbank.schemas.errors import SteerError

NO_SAFETY_CHECKER = (
    "To leave the safety checker out: `safety_checker=False`, in a plan's drawing safety_checker = false, "
    "in Python pipe.safety_checker = None"
)
FLAGS = ("nsfw_content_detected", "nsfw_detected")
"""Where pipelines say which pictures their safety checker blacked out."""
FLAT = 1e-3
"""A picture whose pixels deviate less than this is one colour: it shows nothing."""


@dataclass(frozen=True)
class Pictures:
    """What a pipeline made of n seeds: `frames` `(n, f, 3, h, w)` float32 in [0, 1], on the CPU.

    An image is one frame; of a video there are the first, the middle and the last. `withheld` says which of them a safety
    checker blacked out.
    """

    frames: Tensor
    withheld: tuple[bool, ...]

    @property
    def sheets(self) -> Tensor:
        """Each seed's frames side by side, `(n, 3, h, f * w)`: the image itself, or a video's contact sheet."""
        return self.frames.permute(0, 2, 3, 1, 4).flatten(3)

    @cached_property
    def flat(self) -> Tensor:
        """`(n,)` bool: whether all frames are one colour each."""
        return self.frames.flatten(3).std(dim=3).amax(dim=(1, 2)) < FLAT

    @cached_property
    def finite(self) -> Tensor:
        """`(n,)` bool: whether all values are finite. They are not where half precision overflowed."""
        return self.frames.flatten(1).isfinite().all(dim=1)


def generate(pipe: Any, n: int, call: dict[str, Any]) -> Pictures:
    """Call a pipeline, which is to make n pictures. Raises SteerError where it makes none, or in no form known."""
    if "vae" in (getattr(pipe, "config", None) or {}) and getattr(pipe, "vae", None) is None:
        message = f"this {type(pipe).__name__} has no VAE, and so makes latents, not pictures: load it with its VAE"
        raise SteerError(message)
    with any_dtype(pipe):
        return pictures_of(pipe(output_type="np", **call), n, type(pipe).__name__)


def any_dtype(pipe: Any) -> contextlib.AbstractContextManager[Any]:
    """Inside, a pipeline may hand out pictures in bfloat16, too: those without a processor of images convert them to NumPy."""
    helped = hasattr(pipe, "image_processor") or hasattr(pipe, "video_processor")
    bfloat16 = getattr(pipe, "dtype", None) is torch.bfloat16
    return _NumPyTakesBfloat16() if bfloat16 and not helped else contextlib.nullcontext()


def pictures_of(output: Any, n: int, pipeline: str) -> Pictures:
    """Read n pictures from what a pipeline returned. Raises SteerError where there are none, or another number of them."""
    name = next((each for each in ("images", "frames", "rgb") if getattr(output, each, None) is not None), None)
    found = getattr(output, name) if name else output[0] if isinstance(output, tuple) and output else None
    if found is None:
        made = ", ".join(vars(output)) if hasattr(output, "__dict__") else f"a {type(output).__name__}"
        message = f"a {pipeline} makes no pictures but {made}: what its directions do cannot be shown or measured"
        raise SteerError(message)
    try:
        pixels = _pixels(found)
        if pixels.ndim == (4 if name == "frames" else 3):
            pixels = pixels[None]  # a single one by itself
        if pixels.ndim == 4:
            pixels = pixels[:, None]
        if pixels.ndim != 5 or pixels.shape[2] not in (1, 3):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        made = f"{list(found.shape)}" if hasattr(found, "shape") else f"a {type(found).__name__}"
        message = (
            f"a {pipeline} returned {made}: expected {n} pictures of one or three channels, or videos. Latents are no "
            "pictures: a denoiser trained on latents needs a pipeline with its VAE"
        )
        raise SteerError(message) from None
    if len(pixels) != n:
        message = (
            f"a {pipeline} returned {len(pixels)} pictures for {n} seeds: it cannot be asked for one picture a seed"
        )
        raise SteerError(message)
    count = pixels.shape[1]
    frames = pixels[:, sorted({0, count // 2, count - 1})].float().cpu().expand(-1, -1, 3, -1, -1).contiguous()
    flags = next((f for f in (getattr(output, each, None) for each in FLAGS) if f is not None), [False] * n)
    return Pictures(frames, tuple(bool(flag) for flag in flags))


def _pixels(found: Any) -> Tensor:
    """Pixels with the channels before height and width, in [0, 1], from a tensor, an array, an image, or lists of them."""
    if isinstance(found, Tensor):
        pixels, last = found.detach(), False
    elif isinstance(found, (list, tuple)):
        return torch.stack([_pixels(each) for each in found])
    else:
        import numpy as np

        pixels, last = torch.from_numpy(found if isinstance(found, np.ndarray) else np.array(found)), True
    if not pixels.is_floating_point():
        pixels = pixels.float() / 255
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 3 and pixels.shape[-1 if last else 0] not in (1, 3):
        return pixels[:, None]  # grey ones
    return pixels.movedim(-1, -3) if last else pixels


class _NumPyTakesBfloat16(TorchFunctionMode):
    """Inside, `Tensor.numpy()` of bfloat16, which NumPy lacks, gives float32: pixel pipelines end with it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.numpy and args[0].dtype is torch.bfloat16:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
