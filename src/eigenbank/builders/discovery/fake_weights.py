"""A denoiser without its weights: the class's own module tree and code, with parameters that take no memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eigenbank.diffusers_compat import tensor_tables
from eigenbank.schemas.errors import SourceError

MAX_CALLS = 50_000
"""Most torch calls that constructing a denoiser may take; the largest of diffusers takes a fifth."""
MAX_EXTENT = 2**20
"""Longest side that a parameter of a denoiser may have."""


def denoiser_class(name: str) -> Any:
    """Return the class of that name among diffusers' models. Raises SourceError where there is none."""
    import diffusers

    found = getattr(diffusers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and hasattr(found, "from_config")):
        problem = f"the checkpoint is a {name}, which diffusers {diffusers.__version__} does not have"
        raise SourceError(problem, advice="Upgrade diffusers, or install a package with a family adapter for it")
    return found


def empty_model(config: Mapping[str, Any]) -> Any:
    """The denoiser of a config on the meta device: its module tree, no memory, no weights. Raises SourceError."""
    kind = denoiser_class(str(config.get("_class_name")))
    try:
        # Outermost, what gradients were set to comes back: constructors switch them off for a while, and where the bound is met
        # meanwhile, it stops the call that would switch them on again.
        with torch.enable_grad(), torch.device("meta"), _Bounded():
            model = kind.from_config({key: value for key, value in config.items() if key != "quantization_config"})
    except Exception as error:  # whatever a constructor makes of a hostile config is the config's fault
        problem = f"diffusers cannot make a {kind.__name__} of this config.json ({error})"
        raise SourceError(problem) from error
    longest = max((max(parameter.shape, default=0) for parameter in model.parameters()), default=0)
    if longest > MAX_EXTENT:
        problem = (
            f"this config.json asks for a {kind.__name__} with a parameter {longest} long, and {MAX_EXTENT} "
            "is the most a denoiser may have"
        )
        raise SourceError(problem)
    return model


class _Bounded(TorchFunctionMode):
    """Raises ValueError when a module tree grows past all reason, before memory is gone."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls > MAX_CALLS:
            message = f"it has more layers than any denoiser: {MAX_CALLS} tensors are made, and no end in sight"
            raise ValueError(message)
        return func(*args, **(kwargs or {}))


def with_fake_weights(model: nn.Module) -> nn.Module:
    """Give a model on the meta device parameters that can be computed with: one zero, spread over the whole shape."""
    for module in model.modules():
        parameters, buffers = tensor_tables(module)
        for table in (parameters, buffers):
            for name, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    fake = _fake(tensor)
                    table[name] = nn.Parameter(fake, requires_grad=False) if table is parameters else fake
        for name, value in list(vars(module).items()):
            if not name.startswith("_"):
                vars(module)[name] = _filled(value)
    return model.eval()


def _filled(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_meta:
        return _fake(value)
    if type(value) in (list, tuple):
        return type(value)(_filled(each) for each in value)
    if type(value) is dict:
        return {key: _filled(each) for key, each in value.items()}
    return value


def _fake(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return torch.zeros((), dtype=dtype).expand(tensor.shape)
