"""Where the tokens of a site are: which input or output of which module holds them, and which of them are the image's.

Recorded during the trace (see `trace.py`): every module's inputs and outputs are sampled along single lines, one per axis,
which is enough to tell the tokens' axis from the channels' and image tokens from text.
"""

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from eigenbank.builders.discovery.token_tags import IMAGE, STREAM, TEXT, TOKEN, tags_of
from eigenbank.diffusers_compat import without_torch_function
from eigenbank.schemas import Layer
from eigenbank.schemas.layer import HookPoint, TokenCount
from eigenbank.schemas.recipe import Site


@dataclass(frozen=True)
class RecordedTensor:
    """A tensor at a module's input or output: its name and number there, its shape, and where its tokens are.

    `token_axes` are the axes along which tokens change; the batch is one sample, so a first axis that varies holds tokens
    too. `streams` has IMAGE, TEXT or 0 for every token along the longest of these axes. A trace sees thousands of tensors:
    no more than this is kept of their tags.
    """

    name: str | None
    index: int
    shape: tuple[int, ...]
    token_axes: tuple[int, ...]
    streams: bytes
    listed: bool = False

    def channel_axis(self, width: int) -> int | None:
        """1 or −1, the axis of that extent along which the token stays the same; None where there is none."""
        still = set(range(1, len(self.shape))) - set(self.token_axes)
        for axis in (-1, 1):
            if len(self.shape) > 1 and self.shape[axis] == width and axis % len(self.shape) in still:
                return axis
        return None


class ModuleRecorder:
    """Records what the modules of a model were called with and returned, the first time each is called in a trace."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs: dict[str, list[RecordedTensor]] = {}
        self.outputs: dict[str, list[RecordedTensor]] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the model runs."""
        hooks = []
        for name, module in self.model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def clear(self) -> None:
        """Forget what was recorded in a trial that failed."""
        self.inputs.clear()
        self.outputs.clear()

    def _before(self, name: str) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            if name not in self.inputs:
                names = list(inspect.signature(type(module).forward).parameters)[1:]
                given = [*zip(names, args, strict=False), *kwargs.items()]
                found = [
                    _recorded(value, key, names.index(key) if key in names else len(names), (name, "input"))
                    for key, value in given
                ]
                self.inputs[name] = [tensor for tensor in found if tensor is not None]

        return look

    def _after(self, name: str) -> Any:
        def look(_module: nn.Module, _args: Any, output: Any) -> None:
            if name not in self.outputs:
                values = output if isinstance(output, tuple) else (output,)
                found = [_recorded(value, None, index, (name, "output")) for index, value in enumerate(values)]
                self.outputs[name] = [tensor for tensor in found if tensor is not None]

        return look

    def hook_points(self, layer: Layer, sources: Sequence[Any], projections: Sequence[str]) -> dict[Site, HookPoint]:
        """The sites of a layer, as far as they were seen. `sources`: what its projections, at those paths, read."""
        found: dict[Site, HookPoint | None] = {
            "projection-input": self._projection_input(layer, sources, projections),
            "block-output": self._output(layer),
            "block-input": self._block_input(layer),
        }
        return {site: point for site, point in found.items() if point is not None}

    def _projection_input(self, layer: Layer, sources: Sequence[Any], projections: Sequence[str]) -> HookPoint | None:
        if layer.norm is not None and layer.norm_inside:
            return self._hook_point(layer, [layer.norm.module], "output", self.outputs.get(layer.norm.module, []))
        whole = [
            tensor
            for tensor in self.inputs.get(layer.name, [])
            if all((layer.name, "input", tensor.name) in getattr(source, "_eb_at", ()) for source in sources)
        ]
        # The same tokens under two names are two things to a hook: queries from one, keys and values from the other.
        point = self._hook_point(layer, [layer.name], "input", whole) if len(whole) == 1 else None
        if point is not None:
            return point
        modules = list(dict.fromkeys(projections))
        each = [self._hook_point(layer, [module], "input", self.inputs.get(module, [])) for module in modules]
        same = {None if found is None else found.model_copy(update={"modules": ("x",)}) for found in each}
        return each[0].model_copy(update={"modules": tuple(modules)}) if len(same) == 1 and each[0] else None

    def _output(self, layer: Layer) -> HookPoint | None:
        return self._hook_point(layer, [layer.name], "output", self.outputs.get(layer.name, []))

    def _block_input(self, layer: Layer) -> HookPoint | None:
        """Return the input of the block around the attention, where the residual stream enters it."""
        module = layer.name if layer.norm_inside else layer.name.rpartition(".")[0]
        while module:
            point = self._hook_point(layer, [module], "input", self.inputs.get(module, []))
            if point is not None:
                return point
            module = module.rpartition(".")[0]
        return None

    def _hook_point(
        self, layer: Layer, modules: list[str], at: Any, tensors: Sequence[RecordedTensor]
    ) -> HookPoint | None:
        """Return the hook point at the first of the tensors that holds image tokens of the layer's width."""
        for tensor in tensors:
            axis = tensor.channel_axis(layer.width)
            streams = tensor.streams
            if axis is None or IMAGE not in streams:
                continue
            image = [stream == IMAGE for stream in streams]
            number = sum(image)
            where: Any = None
            if all(image):
                where = "all"
            elif all(image[:number]):
                where = "first"
            elif all(image[-number:]):
                where = "last"
            count = None if where == "all" else self._count(number)
            if where is None or (where != "all" and count is None):
                return None
            return HookPoint(
                modules=tuple(modules),
                at=at,
                argument=tensor.name,
                index=tensor.index,
                axis=axis,  # type: ignore[arg-type]
                image=where,
                count=count,
            )
        return None

    def _count(self, tokens: int) -> TokenCount | None:
        """Tell how the number of image tokens follows from the first argument of the denoiser that holds image."""
        for tensor in self.inputs.get("", []):
            axes = tensor.token_axes
            if not axes or IMAGE not in tensor.streams or TEXT in tensor.streams or tensor.name is None:
                continue
            if tensor.listed:  # its tensors are samples, without a batch axis
                axes = tuple(range(2, len(tensor.shape) + 1))
            positions = math.prod(tensor.shape[axis - tensor.listed] for axis in axes)
            return TokenCount(argument=tensor.name, axes=axes, tokens=tokens, positions=positions)
        return None


def _recorded(value: Any, name: str | None, index: int, at: tuple[str, str]) -> RecordedTensor | None:
    """Record a value, which also learns where it was seen. None for what holds no token."""
    listed = isinstance(value, list) and bool(value)
    tensor = value[0] if listed else value
    if not isinstance(tensor, Tensor) or not tensor.ndim or not tensor.numel():
        return None
    tags = tags_of(tensor) if hasattr(tensor, "_eb_tags") else None
    if tags is None or tags.shape != tensor.shape:
        return None
    tensor._eb_at = (*getattr(tensor, "_eb_at", ()), (*at, name))  # type: ignore[attr-defined]
    with without_torch_function():
        lines = [
            tags[tuple(slice(None) if d == axis else 0 for d in range(tags.ndim))] & TOKEN for axis in range(tags.ndim)
        ]
        axes = tuple(axis for axis, line in enumerate(lines) if bool(((line ^ line[0]) & ~STREAM).any()))
        longest = max((lines[axis] for axis in axes), key=len) if axes else lines[0][:1]
        streams = bytes((longest & STREAM).tolist())
    return RecordedTensor(name, index, tuple(tensor.shape), axes, streams, listed)
