"""The device to compute on."""

from collections.abc import Callable, Sequence

from eigenbank.schemas.errors import SourceError


def pick_device(device: str, able: Sequence[str] | None = None) -> str:
    """`auto` made definite: cuda, mps, else cpu. Raises SourceError for a device that this machine does not have.

    `able` are the accelerators that can do the work, by default any.
    """
    import torch

    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if device == "auto":
        return next((name for name in ("cuda", "mps") if (able is None or name in able) and there[name]()), "cpu")
    kind, _, number = device.partition(":")
    try:
        torch.device(device)
        found = there.get(kind, lambda: True)() and (kind != "cuda" or int(number or 0) < torch.cuda.device_count())
    except RuntimeError:
        found = False
    if not found or (able is not None and kind not in ("cpu", *able)):
        problem = f"there is no device {device!r} here" if not found else f"a device {device!r} cannot do this"
        raise SourceError(problem, advice="Use `device=auto`, or cpu")
    return device
