"""A model without its weights: the class's own module tree and code, parameters that take no memory."""

from typing import Any

import torch
from torch import Tensor, nn


def hollow(model: nn.Module) -> nn.Module:
    """Give a model on the meta device parameters that can be computed with: one zero, spread over the whole shape."""
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    spread = _spread(tensor)
                    table[name] = nn.Parameter(spread, requires_grad=False) if table is module._parameters else spread
        for name, value in list(vars(module).items()):
            if not name.startswith("_"):
                vars(module)[name] = _filled(value)
    return model.eval()


def _filled(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_meta:
        return _spread(value)
    if type(value) in (list, tuple):
        return type(value)(_filled(each) for each in value)
    if type(value) is dict:
        return {key: _filled(each) for key, each in value.items()}
    return value


def _spread(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return torch.zeros((), dtype=dtype).expand(tensor.shape)
