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

from eigenbank.builders.discovery.token_tags import IMAGE, STREAM, TOKEN, attach, tag_norm, tags_of
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

    def channel_axis(self, width: int) -> int | None:
        """1 or −1, the axis of that extent along which the token stays the same; None where there is none."""
        still = set(range(1, len(self.shape))) - set(self.token_axes)
        for axis in (-1, 1):
            if len(self.shape) > 1 and self.shape[axis] == width and axis % len(self.shape) in still:
                return axis
        return None


class ModuleRecorder:
    """Records what the modules of a model were called with and returned, the first time each is called in a trace.

    It also tags what norms return, each time.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs: dict[str, list[RecordedTensor]] = {}
        self.outputs: dict[str, list[RecordedTensor]] = {}
        self.counts: dict[TokenCount, int] = {}
        """Where a pass shows a number of image tokens, in the order it does, and the number."""

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
        self.counts.clear()

    def _before(self, name: str) -> Any:
        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            if name in self.inputs:
                return
            names = list(inspect.signature(type(module).forward).parameters)[1:]
            given = [*zip(names, args, strict=False), *kwargs.items()]
            found = [
                (value, _recorded(value, key, names.index(key) if key in names else len(names))) for key, value in given
            ]
            self.inputs[name] = [tensor for _, tensor in found if tensor is not None]
            self._count(name, "input", self.inputs[name])
            rivals = [tensor for tensor in self.inputs[name] if IMAGE in tensor.streams]
            for value, tensor in found:
                if tensor is not None:
                    value._eb_at = (*getattr(value, "_eb_at", ()), (name, tensor.name))
                    if len(rivals) > 1 and tensor in rivals:
                        attach(value, "fed", getattr(value, "_eb_fed", frozenset()) | {(name, tensor.name)})

        return look

    def _after(self, name: str) -> Any:
        def look(module: nn.Module, _args: Any, output: Any) -> None:
            if "Norm" in type(module).__name__:
                tag_norm(output, name)
            if name not in self.outputs:
                values = output if isinstance(output, tuple) else (output,)
                found = [_recorded(value, None, index) for index, value in enumerate(values)]
                self.outputs[name] = [tensor for tensor in found if tensor is not None]
                self._count(name, "output", self.outputs[name])

        return look

    def _count(self, module: str, at: Any, tensors: Sequence[RecordedTensor]) -> None:
        """Note how many image tokens are in the tensors that hold nothing else, sample by sample."""
        for tensor in tensors if module else ():
            if tensor.token_axes and 0 not in tensor.token_axes and set(tensor.streams) == {IMAGE}:
                count = TokenCount(
                    module=module, at=at, argument=tensor.name, index=tensor.index, axes=tensor.token_axes
                )
                self.counts.setdefault(count, math.prod(tensor.shape[axis] for axis in tensor.token_axes))

    def hook_points(self, layer: Layer, sources: Sequence[Any], projections: Sequence[str]) -> "dict[Site, Located]":
        """The sites of a layer, as far as they were seen. `sources`: what its projections, at those paths, read."""
        found: dict[Site, Located | None] = {
            "projection-input": self._projection_input(layer, sources, projections),
            "block-output": self._hook_point(layer, [layer.name], "output", self.outputs.get(layer.name, [])),
            "block-input": self._block_input(layer, sources),
        }
        return {site: point for site, point in found.items() if point is not None}

    def _projection_input(self, layer: Layer, sources: Sequence[Any], projections: Sequence[str]) -> "Located | None":
        if layer.norm is not None and layer.norm_inside:
            return self._hook_point(layer, [layer.norm.module], "output", self.outputs.get(layer.norm.module, []))
        whole = [
            tensor
            for tensor in self.inputs.get(layer.name, [])
            if all((layer.name, tensor.name) in getattr(source, "_eb_at", ()) for source in sources)
        ]
        # The same tokens under two names are two things to a hook: queries from one, keys and values from the other.
        point = self._hook_point(layer, [layer.name], "input", whole) if len(whole) == 1 else None
        if point is not None:
            return point
        modules = list(dict.fromkeys(projections))
        each = [self._hook_point(layer, [module], "input", self.inputs.get(module, [])) for module in modules]
        same = {None if found is None else found.of(("x",)) for found in each}
        return each[0].of(tuple(modules)) if len(same) == 1 and each[0] else None

    def _block_input(self, layer: Layer, sources: Sequence[Any]) -> "Located | None":
        """The input of the block around the attention, where the residual stream that it reads enters."""
        fed = frozenset().union(*(getattr(source, "_eb_fed", ()) for source in sources))
        module = layer.name if layer.norm_inside else layer.name.rpartition(".")[0]
        while module:
            tensors = self.inputs.get(module, [])
            if sum(IMAGE in tensor.streams for tensor in tensors) > 1:
                tensors = [tensor for tensor in tensors if (module, tensor.name) in fed]
            point = self._hook_point(layer, [module], "input", tensors)
            if point is not None:
                return point
            module = module.rpartition(".")[0]
        return None

    def _hook_point(
        self, layer: Layer, modules: list[str], at: Any, tensors: Sequence[RecordedTensor]
    ) -> "Located | None":
        """The hook point at the first of the tensors that holds image tokens of the layer's width."""
        for tensor in tensors:
            axis = tensor.channel_axis(layer.width)
            streams = tensor.streams
            if axis is None or IMAGE not in streams:
                continue
            number = streams.count(IMAGE)
            where: Any = None
            if number == len(streams):
                where = "all"
            elif set(streams[:number]) == {IMAGE}:
                where = "first"
            elif set(streams[-number:]) == {IMAGE}:
                where = "last"
            # Samples come first and are not mixed with tokens, which are in one row where only some are the image's.
            tokens_first = 0 in tensor.token_axes and tensor.shape[1] == 1 and len(tensor.shape) > 2
            if (
                where is None
                or tokens_first
                or (where != "all" and tensor.token_axes != (len(tensor.shape) - 2 if axis == -1 else 2,))
            ):
                return None
            point = HookPoint.model_construct(
                modules=tuple(modules), at=at, argument=tensor.name, index=tensor.index, axis=axis, image=where
            )  # fmt: skip
            return Located(point, None if where == "all" else tuple(c for c, n in self.counts.items() if n == number))
        return None


@dataclass(frozen=True)
class Located:
    """A hook point, and where text is among its tokens all that shows as many as are the image's: one pass cannot tell which
    of these always does.
    """

    point: HookPoint
    counts: tuple[TokenCount, ...] | None

    def of(self, modules: tuple[str, ...]) -> "Located":
        """The same at other modules."""
        return Located(self.point.model_copy(update={"modules": modules}), self.counts)

    def confirmed(self, others: "Sequence[Located | None]") -> HookPoint | None:
        """The hook point, if passes over other sizes show the same; None where text is among the tokens and nothing tells them
        apart each time.
        """
        if self.counts is None:
            return HookPoint(**dict(self.point))
        if not others or any(other is None or other.point != self.point or other.counts is None for other in others):
            return None
        shared = [count for count in self.counts if all(count in (other.counts or ()) for other in others if other)]
        return HookPoint(**{**dict(self.point), "count": shared[0]}) if shared else None


def _recorded(tensor: Any, name: str | None, index: int) -> RecordedTensor | None:
    """What is recorded of a tensor. None for what holds no token."""
    if not isinstance(tensor, Tensor) or not tensor.ndim or not tensor.numel():
        return None
    tags = tags_of(tensor) if hasattr(tensor, "_eb_tags") else None
    if tags is None or tags.shape != tensor.shape:
        return None
    with without_torch_function():
        lines = [
            tags[tuple(slice(None) if d == axis else 0 for d in range(tags.ndim))] & TOKEN for axis in range(tags.ndim)
        ]
        axes = tuple(axis for axis, line in enumerate(lines) if bool(((line ^ line[0]) & ~STREAM).any()))
        longest = max((lines[axis] for axis in axes), key=len) if axes else lines[0][:1]
        streams = bytes((longest & STREAM).tolist())
    return RecordedTensor(name, index, tuple(tensor.shape), axes, streams)
