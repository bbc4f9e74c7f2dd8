"""Add directions to a diffusion model of ComfyUI while it samples, as eigenbank's `steer` does in diffusers.

Around each call of the model, hooks are put on the modules of the sites and taken away again: what is loaded is never changed,
so that other models made of the same weights, and this one at strength 0, give what they gave before, bit for bit.
"""

import contextlib
import itertools
import logging
import math
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from .sets import Directions, Part

KEY = "eigenbank"
EXACT, TRANSFER = 0.999, 0.9
"""From here on a direction counts as one of these very weights, or as one of a fine-tune: cos∠(M′v, v), see eigenbank's `match`."""
FAMILIES = {
    "UNetModel": "UNet2DConditionModel",
    "OpenAISignatureMMDITWrapper": "SD3Transformer2DModel",
    "Flux": "FluxTransformer2DModel",
    "QwenImageTransformer2DModel": "QwenImageTransformer2DModel",
    "WanModel": "WanTransformer3DModel",
}
"""ComfyUI's diffusion model class → the class in diffusers whose sets it takes."""


class SteerError(ValueError):
    """Sliders that a model cannot take, or a run that cannot carry them out."""


class Site(NamedTuple):
    """Where tokens are in ComfyUI's model: an input (the argument `name`, or the one at `index`) or the output of a module.

    `joint`: the image's tokens come after the text's. `columns`: of a FLUX single block's fused layers only the first columns are
    attention's: `read` by linear2, or `made` by linear1.
    """

    module: str
    at: str
    name: str = ""
    index: int = 0
    joint: bool = False
    columns: str = ""


def unwrapped(module: Any) -> Any:
    """Return the module inside the wrapper of torch.compile."""
    return getattr(module, "_orig_mod", module)


def submodule(root: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, looking through wrappers of torch.compile."""
    for name in path.split("."):
        root = getattr(unwrapped(root), name)
    return unwrapped(root)


class Held:
    """What ComfyUI holds of a model: where it keeps the layers that diffusers names, and their weights.

    Raises SteerError for a model whose layers are not known here.
    """

    def __init__(self, base: nn.Module) -> None:
        import comfy.utils

        model = unwrapped(base.diffusion_model)
        self._model = weakref.ref(model)
        kind, config = type(model).__name__, base.model_config.unet_config
        if kind not in FAMILIES or getattr(model, "ref_conv", None) is not None:
            message = (
                f"eigenbank's sliders do not know where the layers of ComfyUI's {kind} are: nothing was changed. Known are SD 1 and 2, SDXL "
                "(UNetModel), SD 3, FLUX.1, Qwen-Image and Wan 2.1 and 2.2 text to video and image to video"
            )
            raise SteerError(message)
        self.denoiser = FAMILIES[kind]
        if kind == "UNetModel":
            self.names: dict[str, Any] = comfy.utils.unet_to_diffusers(config)
        elif kind == "OpenAISignatureMMDITWrapper":
            self.names = comfy.utils.mmdit_to_diffusers(config)
        elif kind == "Flux":
            self.names = comfy.utils.flux_to_diffusers(config)
        else:
            held = [name for name, _ in model.named_parameters()]
            self.names = {
                re.sub(r"self_attn\.([qkv])\.", r"attn1.to_\1.", name).replace("self_attn.o.", "attn1.to_out.0."): name
                for name in held
            }

    @property
    def model(self) -> nn.Module:
        """The diffusion model."""
        return self._model()

    def parameter(self, name: str) -> tuple[str, tuple[int, int, int] | None] | None:
        """Return ComfyUI's name for a parameter of diffusers, and which part of it that is (axis, start, length), if any."""
        found = self.names.get(name)
        name, rows = (found, None) if isinstance(found, str) else (found or ("", None))[:2]
        with contextlib.suppress(AttributeError):
            submodule(self.model, name.rpartition(".")[0])
            return name, rows
        return None

    def site(self, part: Part) -> Site:
        """Return where a direction is added. Raises SteerError where the model has no such layer."""
        found = self.parameter(f"{part.layer}.to_q.weight")
        if found is None:
            message = f"the model has no layer {part.layer}: the directions belong to another architecture, nothing was changed"
            raise SteerError(message)
        query, kind = found[0].removesuffix(".weight"), type(self.model).__name__
        single = kind == "Flux" and query.startswith("single_blocks.")
        if part.site == "block-input":
            block = (
                re.match(r"(.*?(?:blocks\.\d+))(?:\.|$)", query)
                if kind != "UNetModel"
                else re.match(r"(.*)\.attn1\.", query)
            )
            where = {
                "Flux": ("img", 0),
                "OpenAISignatureMMDITWrapper": ("x", 1),
                "QwenImageTransformer2DModel": ("hidden_states", 0),
            }
            name, index = where.get(kind, ("x", 0))
            return Site(block[1], "input", "x" if single else name, index, joint=single)
        reads = part.site == "projection-input"
        attention = query.rpartition(".")[0]
        if single:
            block = attention
            return (
                Site(f"{block}.linear1", "output", joint=True, columns="made")
                if reads
                else Site(f"{block}.linear2", "input", "input", joint=True, columns="read")
            )
        if kind == "UNetModel":
            # What other nodes put in place of the attention reads the norm and is read by to_out, too.
            return (
                Site(f"{attention.rpartition('.')[0]}.norm1", "output")
                if reads
                else Site(f"{attention}.to_out", "output")
            )
        if kind == "QwenImageTransformer2DModel":
            return Site(attention, "input", "hidden_states") if reads else Site(f"{attention}.to_out.0", "output")
        if kind == "WanModel":
            return Site(attention, "input", "x") if reads else Site(attention, "output")
        return Site(query, "input", "input") if reads else Site(f"{attention}.proj", "output")


def score(held: Held, weights: Callable[[str, Any], Tensor], part: Part) -> float:
    """Return cos∠(M′v, v) for the matrix a direction is of, as the model has it: 1 for an eigenvector, less for other weights.

    `weights` gives a parameter by its name and part. Raises SteerError for another width or a matrix that is not known.
    """

    def read(role: str) -> Tensor | None:
        found = held.parameter(f"{part.layer}.{role}.weight")
        if found is None:
            return None
        weight = weights(*found).double()
        if part.head is not None:
            axis = 1 if role == "to_out.0" else 0
            heads = _heads(held, found[0])
            size = weight.shape[axis] // heads
            weight = weight.narrow(axis, part.head * size, size)
        return weight

    q, k, v, o = (read(role) for role in ("to_q", "to_k", "to_v", "to_out.0"))
    if q.shape[1] != part.vector.numel():
        message = f"{part.id} is {part.vector.numel()} wide, the model's layer is {q.shape[1]} wide: it belongs to another checkpoint"
        raise SteerError(message)
    products = {
        "value": [v],
        "output-value": [o, v] if o is not None else [v],
        "query-key": [q.T, k],
        "qkv": [torch.cat([q, k, v])],
    }
    if part.matrix not in products:
        message = f"{part.id} is of a matrix {part.matrix!r} that this node pack does not know"
        raise SteerError(message)
    factors = products[part.matrix] if part.side == "input" else [each.T for each in reversed(products[part.matrix])]
    image = vector = part.vector.double().to(q.device)
    for factor in reversed(factors):
        image = factor @ image
    for factor in factors:
        image = factor.T @ image
    return float((image @ vector) / image.norm().clamp_min(1e-300))


def _heads(held: Held, parameter: str) -> int:
    path = parameter
    while "." in path:
        path = path.rpartition(".")[0]
        module = submodule(held.model, path)
        found = getattr(module, "heads", None) or getattr(module, "num_heads", None)
        if found:
            return int(found)
    message = f"how many heads {parameter} has is not known: nothing was changed"
    raise SteerError(message)


def check(patcher: Any, held: Held, parts: Sequence[Part], name: str, *, force: bool = False) -> float | None:
    """Compare directions with the weights a patcher holds, its LoRAs and merges included. Returns the worst score.

    None where the weights are quantised and cannot be compared, which is logged. Raises SteerError for weights that the
    directions are not of, unless `force`.
    """
    import comfy.lora

    prefix, scores = "diffusion_model.", {}
    patches = patcher.get_key_patches(prefix)

    def weights(key: str, rows: tuple[int, int, int] | None) -> Tensor:
        (weight, convert), *more = patches[prefix + key]
        if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
            raise _QuantisedError
        made = convert(weight.detach().to(torch.float32, copy=True), inplace=True)
        made = comfy.lora.calculate_weight(more, made, prefix + key) if more else made
        return made if rows is None else made.narrow(*rows)

    try:
        for part in parts:
            scores[part.id] = score(held, weights, part)
    except _QuantisedError:
        logging.warning(
            "eigenbank: the model's weights are quantised, so whether %s belongs to them was not checked", name
        )
        return None
    worst = min(scores, key=scores.get)
    said = f"{name}: {worst} fits the model's weights with a score of {scores[worst]:.3f}"
    if scores[worst] < TRANSFER and not force:
        message = (
            f"{said}, at least {TRANSFER} expected: the directions are of another checkpoint, nothing was changed. Build directions for this "
            "one, or set force"
        )
        raise SteerError(message)
    logging.log(
        logging.INFO if scores[worst] >= EXACT else logging.WARNING, "eigenbank: %s (1 is the checkpoint itself)", said
    )
    return scores[worst]


def steer(
    patcher: Any, directions: Directions, sliders: dict[str, float], *, window: tuple[float, float] | None = None,
    branch: str | None = None, mask: Tensor | None = None, force: bool = False,
) -> Any:  # fmt: skip
    """Return a clone of a ModelPatcher with sliders on it, by label or id and strength; itself where all of them are 0.

    Raises SetError for a slider that is not there, SteerError for directions of other weights (unless `force`) or of another
    class of model.
    """
    held = _held(patcher.model)
    if directions.denoiser != held.denoiser:
        message = (
            f"the directions of {directions.model_id} are of a {directions.denoiser}, and the model is a {held.denoiser}: nothing was changed. "
            f"This node pack takes sets of {', '.join(dict.fromkeys(FAMILIES.values()))}"
        )
        raise SteerError(message)
    terms = [
        (part, strength) for name, strength in sliders.items() for part in directions.find(name).parts() if strength
    ]
    name, problem, fitting = ", ".join(sliders), None, []
    for component in dict.fromkeys(part.component for part, _ in terms):
        # A set of two denoisers, as of Wan 2.2: each of them is a model of its own here, and takes its own directions.
        mine = [(part, strength) for part, strength in terms if part.component == component]
        try:
            check(patcher, held, [part for part, _ in mine], name, force=force)
        except SteerError as error:
            problem = problem or error
        else:
            fitting += mine
    if problem is not None and not fitting:
        raise problem
    return Steering(name, fitting, window=window, branch=branch, mask=mask).attach(patcher) if fitting else patcher


class _QuantisedError(Exception):
    """Weights are stored as something other than their values."""


class Steering:
    """Sliders of one node: called by ComfyUI around a run, each of its steps and each call of the model (see `attach`).

    `terms` are directions, and what is added of each, in token lengths. `window` replaces the directions' own. `branch` is the
    only one of guidance that is edited, None for both. `mask` `(m, h, w)` weighs the image's tokens.
    """

    def __init__(
        self, name: str, terms: Sequence[tuple[Part, float]], *, window: tuple[float, float] | None = None,
        branch: str | None = None, mask: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.terms = [(part, part.weight * strength, window or part.window) for part, strength in terms]
        self.branch = branch
        self.mask = None if mask is None else _checked(mask)
        self.met: set[str] = set()
        for _, _, (start, end) in self.terms:
            if not 0 <= start < end <= 1:
                message = f"{name} is to act from {start:g} to {end:g} of the run: expected two fractions, the first the smaller"
                raise SteerError(message)

    def __deepcopy__(self, _memo: Any) -> "Steering":
        return self

    def attach(self, patcher: Any) -> Any:
        """Return a clone of a ModelPatcher with these sliders on it, beside those it has."""
        from comfy.patcher_extension import WrappersMP

        clone = patcher.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self.around_run)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self.around_step)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self)
        return clone

    def around_run(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Warn of directions that no step of the run met."""
        self.met.clear()
        made = executor(*args, **kwargs)
        unmet = {
            f"{part.id} ({start:g} to {end:g} of the run)"
            for part, _, (start, end) in self.terms
            if part.id not in self.met
        }
        if unmet:
            branch = "" if self.branch is None else f" in the branch {self.branch} of guidance"
            logging.warning(
                "eigenbank: %s: no step of this run was there%s, so they did nothing: %s",
                self.name,
                branch,
                ", ".join(sorted(unmet)[:5]),
            )
        return made

    def around_step(
        self, executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> Any:
        """Tell the calls of the model within a step how many conditionings there are, and how large the whole image is."""
        told = {"conds": len(conds), "space": tuple(x.shape[2:])}
        options = {**model_options.get("transformer_options", {}), KEY: told}
        return executor(model, conds, x, timestep, {**model_options, "transformer_options": options})

    def __call__(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the model with the sliders of all nodes on it: the first of them does it for all, so that they share the lengths."""
        # apply_model(x, t, c_concat, c_crossattn, control, transformer_options, …)
        options = kwargs.get("transformer_options") or (args[4] if len(args) > 4 else {})
        mine = list(dict.fromkeys(options["wrappers"]["apply_model"][KEY]))
        if mine[0] is not self:
            return executor(x, *args, **kwargs)
        held = _held(executor.class_obj)
        additions: dict[Site, Addition] = {}
        for steering in mine:
            for part, scale in steering.acting(options, x):
                site = held.site(part)
                additions.setdefault(site, Addition(site, held, x)).add(steering, part, scale)
        with contextlib.ExitStack() as stack:
            if additions:
                stack.enter_context(_uncompiled())
                for addition in additions.values():
                    stack.enter_context(addition.hooked())
            return executor(x, *args, **kwargs)

    def acting(self, options: dict[str, Any], x: Tensor) -> Iterator[tuple[Part, Tensor]]:
        """Yield the directions that act on this call, with their scale for each row of it, `(1,)` or `(batch,)`. Raises SteerError."""
        rows = self._rows(options, x)
        if not bool(rows.any()):
            return
        done = progress(options)
        for part, scale, (start, end) in self.terms:
            if done is None and (start, end) != (0, 1):
                message = (
                    f"{self.name} acts in a part of the run, and this sampler does not tell ComfyUI which step it is at"
                )
                raise SteerError(message)
            if done is None or start <= done < end:
                self.met.add(part.id)
                yield part, rows * scale

    def _rows(self, options: dict[str, Any], x: Tensor) -> Tensor:
        """Return 1 for each row of the call's batch that is edited, else 0: `(1,)` where they are all the same. Raises SteerError."""
        told = options.get(KEY, {})
        if self.mask is not None and told.get("space") != tuple(x.shape[2:]):
            message = f"{self.name} has a mask, and the model is called with a part of the image (an area, a tile): use it without one"
            raise SteerError(message)
        if self.branch is None:
            return torch.ones(1)
        order = options.get("cond_or_uncond") or []
        if told.get("conds") != 2 or not order or x.shape[0] % len(order):
            message = f"{self.name} is for one branch of guidance, and this guider does not say which of its calls that is: use both"
            raise SteerError(message)
        rows = torch.tensor([float((which == 0) == (self.branch == "cond")) for which in order])
        return rows[:1] if bool((rows == rows[0]).all()) else rows.repeat_interleave(x.shape[0] // len(order))


class Addition:
    """What is added at one site in one call of the model: the sum over sliders, in lengths of the tokens as they come."""

    def __init__(self, site: Site, held: Held, x: Tensor) -> None:
        self.site, self.model, self.batch, self.space = site, held.model, x.shape[0], tuple(x.shape[2:])
        self.deltas: dict[Steering, Tensor] = {}
        self.image: int | None = None

    def add(self, steering: Steering, part: Part, scale: Tensor) -> None:
        """Add a direction, `scale` for each row."""
        self.deltas[steering] = self.deltas.get(steering, 0.0) + scale[:, None] * part.vector

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Have the site's tokens edited within this block."""
        module = submodule(self.model, self.site.module)
        handles = []
        if self.site.joint:
            last = self.model.double_blocks[len(self.model.double_blocks) - 1]
            handles.append(unwrapped(last).register_forward_hook(self._count))
        if self.site.columns == "made":
            handles.append(module.register_forward_hook(self._made))
        elif self.site.at == "output":
            handles.append(module.register_forward_hook(lambda _module, _args, out: self.edited(out)))
        else:
            handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, _module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> None:
        self.image = output[0].shape[1]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, index = self.site.name, self.site.index
        if name in kwargs:
            return args, {**kwargs, name: self.edited(kwargs[name])}
        if index < len(args):
            return (*args[:index], self.edited(args[index]), *args[index + 1 :]), kwargs
        message = f"{self.site.module} ({type(module).__name__}) was called without {name}: this node pack knows another version of it"
        raise SteerError(message)

    def _made(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add what a fused layer makes of the addition to its q, k and v, and leave its other columns as they are."""
        moved = output.clone()
        place, width = self._place(args[0]), 3 * args[0].shape[-1]
        for delta, weights in self.rows(args[0][:, place]):
            made = module.forward(delta) - module.forward(torch.zeros_like(delta))
            moved[:, place, :width] += made[..., :width] if weights is None else made[..., :width] * weights
        return moved

    def edited(self, hidden: Tensor) -> Tensor:
        """Return the tokens `(batch, tokens, d)` with the addition; text tokens and further columns as they are."""
        width = next(iter(self.deltas.values())).shape[-1]
        width = width if self.site.columns else hidden.shape[-1]
        place = self._place(hidden)
        image = hidden[:, place, :width]
        added = sum(delta if weights is None else delta * weights for delta, weights in self.rows(image))
        if place == slice(None) and width == hidden.shape[-1]:
            return hidden + added
        moved = hidden.clone()
        moved[:, place, :width] += added
        return moved

    def _place(self, hidden: Tensor) -> slice:
        """Return where the image's tokens are. Raises SteerError where the call did not show how many there are."""
        if not self.site.joint:
            return slice(None)
        if not self.image or self.image > hidden.shape[1]:
            message = f"{self.site.module} got {hidden.shape[1]} tokens, and this call shows {self.image or 'no'} image tokens: nothing was drawn"
            raise SteerError(message)
        return slice(hidden.shape[1] - self.image, None)

    def rows(self, image: Tensor) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Yield what each node's sliders add to the image's tokens, `(batch or 1, 1, d)`, and the weight of each token, if any."""
        width = next(iter(self.deltas.values())).shape[-1]
        if image.shape[-1] != width or image.shape[0] != self.batch:
            message = (
                f"the tokens at {self.site.module} are {tuple(image.shape)}, directions {width} wide and a batch of {self.batch} were "
                "expected: another node splits the batch, or the directions are of another checkpoint"
            )
            raise SteerError(message)
        lengths = token_lengths(image)
        for steering, delta in self.deltas.items():
            weights = None if steering.mask is None else mask_weights(steering.mask, image, self.batch, self.space)
            yield (lengths[:, None] * delta.to(image.device))[:, None].to(image.dtype), weights


def token_lengths(image: Tensor) -> Tensor:
    """Return the root mean square length of each sample's tokens, `(batch,)` float32; 0 where one is not finite."""
    precise = torch.promote_types(image.dtype, torch.float32)
    norms = torch.linalg.vector_norm(image, dim=(1, 2), dtype=precise)
    return (norms / max(1, image.shape[1]) ** 0.5).nan_to_num(0.0, 0.0, 0.0)


def progress(options: dict[str, Any]) -> float | None:
    """Return the fraction of the run's steps that lies behind, in [0, 1); None where ComfyUI does not tell.

    Step k of n is k / n. Between the noise levels of two steps, where some samplers call the model too, it is the fraction of
    the way from the one to the other.
    """
    sigmas, now = options.get("sample_sigmas"), options.get("sigmas")
    if sigmas is None or now is None or len(sigmas) < 2:
        return None
    levels, sigma = [float(each) for each in sigmas], float(now.flatten()[0])
    steps = len(levels) - 1
    if sigma in levels:
        return min(levels.index(sigma) / steps, 1 - 1e-9)
    for step, (here, there) in enumerate(itertools.pairwise(levels)):
        if min(here, there) < sigma < max(here, there):
            return (step + (here - sigma) / (here - there)) / steps
    return 0.0 if abs(sigma - levels[0]) <= abs(sigma - levels[-1]) else 1 - 1e-9


def mask_weights(mask: Tensor, image: Tensor, batch: int, space: tuple[int, ...]) -> Tensor:
    """Return the weight of each token of `image`, `(m, tokens, 1)`, m being 1 or the batch. Raises SteerError."""
    if len(mask) > 1:
        if batch % len(mask):
            message = f"there are {len(mask)} masks, one per sample, and the batch is {batch}: give as many as images are made"
            raise SteerError(message)
        mask = mask.repeat(batch // len(mask), 1, 1)
    frames, height, width = token_grid(image.shape[1], space)
    small = F.interpolate(mask[:, None].to(image.device), size=(height, width), mode="area")
    return small.expand(-1, frames, -1, -1).reshape(len(mask), -1, 1).to(image.dtype)


def token_grid(tokens: int, space: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the frames, rows and columns of a layer's tokens: those of the latent image, divided. Raises SteerError."""
    frames, latent = (space[0] if len(space) == 3 else 1), space[-2:]
    for count in dict.fromkeys((frames, (frames + 1) // 2, 1)):
        for part in range(1, max(latent) + 1):
            height, width = (math.ceil(extent / part) for extent in latent)
            if count * height * width == tokens:
                return count, height, width
    message = (
        f"a mask does not fit a layer of {tokens} tokens for a latent image of {space}: use the slider without one"
    )
    raise SteerError(message)


def _checked(mask: Tensor) -> Tensor:
    mask = (mask[None] if mask.ndim == 2 else mask).float().cpu()
    if mask.ndim != 3 or not bool(((mask >= 0) & (mask <= 1)).all()) or not bool(mask.any()):
        message = f"a mask of shape {list(mask.shape)} is all 0, or not all within [0, 1]: the slider would do nothing, or no such thing"
        raise SteerError(message)
    return mask


_known: "weakref.WeakKeyDictionary[nn.Module, Held]" = weakref.WeakKeyDictionary()


def _held(base: nn.Module) -> Held:
    """Return what is known of a model, found once."""
    model = unwrapped(base.diffusion_model)
    if model not in _known:
        _known[model] = Held(base)
    return _known[model]


def _uncompiled() -> Any:
    """Switch torch.compile off for a call: what it made of a model does not notice hooks."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if set_stance is None else set_stance("force_eager")
