"""From a model's trace to its self-attention layers: which attentions look from image tokens at image tokens, and which
weights they are made of.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eigenbank.builders.discovery.fake_weights import with_fake_weights
from eigenbank.builders.discovery.families import Discovery
from eigenbank.builders.discovery.inputs import Attempt, attempts
from eigenbank.builders.discovery.token_positions import Located, ModuleRecorder
from eigenbank.builders.discovery.token_tags import IMAGE, STREAM, TEXT, NormOrigin, frame_and_position
from eigenbank.builders.discovery.trace import Operand, Trace, TracedAttention, Tracer
from eigenbank.diffusers_compat import is_convolution
from eigenbank.progress import without_advice
from eigenbank.schemas import Layer, Norm, Part
from eigenbank.schemas.layer import Kind, Range, Role
from eigenbank.schemas.recipe import Site

_ROLES: tuple[Role, ...] = ("query", "key", "value")
_BIASES: dict[Role, Role] = {
    "query": "query-bias", "key": "key-bias", "value": "value-bias", "output": "output-bias", "norm": "norm-bias",
}  # fmt: skip


def trace_layers(model: nn.Module) -> Discovery:
    """Find the self-attention layers of a model on the meta device, in the order of its modules. Its weights are fake ones after."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    model = with_fake_weights(model)
    recorder = ModuleRecorder(model)
    # Nobody runs this forward: advice on it is of no use, and warnings must not be taken for failures.
    with recorder.recording(), _plain_flex(), without_advice(Warning), torch.no_grad():
        trace, problem, attempt = _follow(model, recorder)
        found, excluded = _layers(model, trace, recorder, shapes)
        again: list[dict[str, tuple[Layer, dict[Site, Located]]]] = []
        if attempt is not None and any(
            site.counts is not None for _, sites in found.values() for site in sites.values()
        ):
            for other in attempt.others():
                if len(again) == 1 and other.trial.sizes.text == attempt.trial.sizes.text:
                    break
                recorder.clear()
                tracer, failed = _traced(model, other)
                if failed is None:
                    again.append(_layers(model, tracer.trace, recorder, shapes)[0])
    layers = {name: _confirmed(layer, sites, again) for name, (layer, sites) in found.items()}
    undecided = [layer for layer in _unseen(model, shapes) if layer.name not in layers and layer.name not in excluded]
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    listed = sorted([*layers.values(), *undecided], key=lambda layer: order[layer.name])
    note = _note(type(model).__name__, listed, undecided, problem)
    used = {part.tensor for layer in listed for part in layer.tensors.values()}
    return Discovery(listed, {name: shape for name, shape in shapes.items() if name in used}, note)


def _layers(
    model: nn.Module, trace: Trace, recorder: ModuleRecorder, shapes: Mapping[str, tuple[int, ...]]
) -> "tuple[dict[str, tuple[Layer, dict[Site, Located]]], set[str]]":
    """The layers of a trace with their sites, and the modules that were seen to be none."""
    layers: dict[str, tuple[Layer, dict[Site, Located]]] = {}
    excluded: set[str] = set()
    for attention in trace.attentions:
        layer = _layer(model, trace, attention, shapes)
        if layer is None:
            operands = [operand for found in attention.operands.values() for operand in found.values()]
            excluded.update(_owner(model, operand.weight) for operand in operands)
        elif layer.name not in layers:
            read = [attention.operands[role][IMAGE] for role in _ROLES]
            projections = [operand.weight.rpartition(".")[0] for operand in read]
            layers[layer.name] = layer, recorder.hook_points(layer, [operand.source for operand in read], projections)
    return layers, excluded


def _confirmed(
    layer: Layer, sites: "dict[Site, Located]", again: "list[dict[str, tuple[Layer, dict[Site, Located]]]]"
) -> Layer:
    """The layer with those of its sites that passes over other sizes confirm."""
    found = {
        site: located.confirmed([other[layer.name][1].get(site) if layer.name in other else None for other in again])
        for site, located in sites.items()
    }
    return layer.model_copy(update={"sites": {site: point for site, point in found.items() if point is not None}})


def _note(kind: str, found: list[Layer], undecided: list[Layer], problem: str | None) -> str | None:
    """Say why layers are undecided, or why none were found."""
    mixed = sum(layer.kind == "undecided" for layer in found) - len(undecided)
    said = []
    if problem:
        count = f"{len(undecided)} layers are undecided" if undecided else "no layers were found"
        said.append(f"{count}, its forward could not be followed ({problem})")
    elif undecided:
        said.append(f"{len(undecided)} layers are undecided, no image token was seen in them")
    if mixed:
        said.append(
            f"{mixed} layers are undecided, their keys come from other features of the image than their queries"
        )
    return f"{kind}: {'; '.join(said)}" if said else None


def _follow(model: nn.Module, recorder: ModuleRecorder) -> tuple[Trace, str | None, Attempt | None]:
    """Run a model with fake weights on the first arguments it accepts.

    Returns the trace, None and what it accepted; where it accepts nothing, the trace that came furthest and what it failed on.
    """
    best, problem = Trace(), "no arguments fit"
    for attempt in attempts(model):
        recorder.clear()
        tracer, failed = _traced(model, attempt)
        if failed is None:
            return tracer.trace, None, attempt
        if len(tracer.trace.attentions) >= len(best.attentions):
            first_line = next(iter(str(failed).splitlines()), "")
            best, problem = tracer.trace, f"{type(failed).__name__}: {first_line[:120]}"
    return best, problem, None


def _traced(model: nn.Module, attempt: Attempt) -> tuple[Tracer, Exception | None]:
    """Trace one pass. Returns how far it came, and what it failed on."""
    tracer = Tracer(model)
    try:
        arguments = attempt.arguments()
        with tracer:
            model(**arguments)
    except Exception as error:  # arguments that do not fit fail in whatever way the class happens to
        return tracer, error
    return tracer, None


@contextlib.contextmanager
def _plain_flex() -> Iterator[None]:
    """Let this thread's flex attention be plain attention: it would be compiled, and its mask does not matter here."""
    from torch.nn.attention import flex_attention as module

    real, thread = module.flex_attention, threading.get_ident()

    def plain(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return real(query, key, value, *args, **kwargs)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    module.flex_attention = plain
    try:
        yield
    finally:
        module.flex_attention = real


def _layer(
    model: nn.Module, trace: Trace, attention: TracedAttention, shapes: Mapping[str, tuple[int, ...]]
) -> Layer | None:
    """Return the layer behind an attention, None where it is not self-attention over image tokens."""
    operands = {role: attention.operands[role].get(IMAGE) for role in _ROLES}
    query, key, value = (operands[role] for role in _ROLES)
    if query is None or key is None or value is None:
        return None
    same = _one_source(query.source, key.source) and _one_source(key.source, value.source)
    if not same and not _same_tokens(attention):
        return None
    kind: Kind = _kind(attention) if same else "undecided"
    name = _common([_owner(model, operand.weight) for operand in (query, key, value)])
    heads, size = value.rows.shape[0], int((value.rows >= 0).any(0).sum())
    tensors: dict[Role, Part] = {}
    kv_heads = heads
    for role, operand in zip(_ROLES, (query, key, value), strict=True):
        ranges = _ranges(operand, size if role == "value" else int((operand.rows >= 0).any(0).sum()))
        count = len({start for start, _ in ranges})
        if role == "value":
            kv_heads = count
        _put(tensors, role, operand.weight, _merged(ranges), None, shapes)
    heads = max(len({start for start, _ in _ranges(query, query.rows.shape[1])}), kv_heads)
    written = trace.outputs.get(attention.number)
    if written is not None and written.weight.startswith(f"{name}."):
        _put(tensors, "output", written.weight, None, written.columns, shapes)
    norm = _norm(model, name, trace.norms.get(query.weight), tensors, shapes)
    return Layer(
        name=name,
        kind=kind,
        width=shapes[query.weight][1],
        heads=heads,
        kv_heads=kv_heads if kv_heads != heads else None,
        norm=norm,
        tensors=tensors,
    )


def _one_source(one: Any, other: Any) -> bool:
    """Whether two inputs are the same features: one tensor, or made of what came out of one norm, unchanged."""
    norm = getattr(one, "_eb_norm", None)
    same: NormOrigin | None = norm if norm is getattr(other, "_eb_norm", None) else None
    return one is other or (same is not None and not same.changed)


def _kind(attention: TracedAttention) -> Kind:
    if (attention.streams("query") | attention.streams("key")) & TEXT:
        return "joint"
    frames, positions = frame_and_position(attention.keys)
    temporal = bool((frames != frames[:, :1]).any()) and not bool((positions != positions[:, :1]).any())
    return "temporal" if temporal else "spatial"


def _same_tokens(attention: TracedAttention) -> bool:
    images = [set(each[(each & STREAM) == IMAGE].tolist()) for each in (attention.queries[0], attention.keys[0])]
    return images[0] == images[1]


def _owner(model: nn.Module, weight: str) -> str:
    """The module a projection belongs to: the one around a linear layer, or the one that holds the bare weight."""
    module = weight.rpartition(".")[0]
    projection = model.get_submodule(module)
    return module.rpartition(".")[0] if isinstance(projection, nn.Linear) or is_convolution(projection) else module


def _common(paths: list[str]) -> str:
    parts = [path.split(".") for path in paths]
    shared = 0
    while shared < min(map(len, parts)) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return ".".join(parts[0][:shared])


def _ranges(operand: Operand, size: int) -> list[Range]:
    """Each head's weight rows. Rotary embeddings mix a head's rows in pairs, so only its first row is taken at its word."""
    starts = [int(rows[rows >= 0].min()) for rows in operand.rows if bool((rows >= 0).any())]
    return [(start, start + size) for start in starts]


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    merged: list[Range] = []
    for start, end in dict.fromkeys(ranges):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _put(
    tensors: dict[Role, Part],
    role: Role,
    weight: str,
    rows: tuple[Range, ...] | None,
    columns: Range | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Enter a weight and its bias; ranges that are the whole of it are left out."""
    shape = shapes[weight]
    tensors[role] = Part(
        tensor=weight,
        rows=None if rows == ((0, shape[0]),) else rows,
        columns=None if columns == (0, shape[1]) else columns,
    )
    bias = weight[: -len("weight")] + "bias" if weight.endswith("weight") else ""
    if bias in shapes:
        tensors[_BIASES[role]] = Part(tensor=bias, rows=tensors[role].rows)


def _norm(
    model: nn.Module,
    layer: str,
    origin: NormOrigin | None,
    tensors: dict[Role, Part],
    shapes: Mapping[str, tuple[int, ...]],
) -> Norm | None:
    if origin is None or not origin.module:
        return None
    module = model.get_submodule(origin.module)
    # A norm module that holds a projection of its own scales and shifts by what that makes of the timestep.
    adaptive = origin.changed or any(isinstance(each, nn.Linear) for each in module.modules())
    inner = next(
        (
            name
            for name, each in module.named_modules()
            if isinstance(getattr(each, "weight", None), Tensor) and each.weight.ndim == 1
        ),
        None,
    )
    if inner is not None and not adaptive:
        path = f"{origin.module}.{inner}" if inner else origin.module
        if f"{path}.weight" in shapes:
            tensors["norm"] = Part(tensor=f"{path}.weight")
        if f"{path}.bias" in shapes:
            tensors["norm-bias"] = Part(tensor=f"{path}.bias")
    where: Any = "inside" if origin.module.startswith(f"{layer}.") else "before"
    return Norm(module=origin.module, position=where, adaptive=adaptive)


def _unseen(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Attention modules by the names diffusers gives their projections, for those no trace has shown at work."""
    layers = []
    for name, module in model.named_modules():
        linear: dict[str, Any] = {role: getattr(module, f"to_{role[0]}", None) for role in _ROLES}
        if not name or not all(isinstance(each, nn.Linear) for each in linear.values()):
            continue
        width, heads = linear["query"].in_features, int(getattr(module, "heads", 1) or 1)
        if linear["key"].in_features != width or not width:
            continue  # reads tokens of another width: not itself; or none at all, as tiny configs divide to
        tensors: dict[Role, Part] = {}
        for role in _ROLES:
            _put(tensors, role, f"{name}.to_{role[0]}.weight", None, None, shapes)
        out = next((path for path in ("to_out.0", "to_out") if f"{name}.{path}.weight" in shapes), None)
        if out:
            _put(tensors, "output", f"{name}.{out}.weight", None, None, shapes)
        layers.append(Layer(name=name, kind="undecided", width=width, heads=heads, tensors=tensors))
    return layers
