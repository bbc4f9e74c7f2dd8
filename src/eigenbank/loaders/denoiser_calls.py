"""Watch the calls of a denoiser: which run it is, how far that is, how large the batch, which branch of guidance it is."""

import contextlib
import contextvars
import functools
import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import compiled_call, guider_branch, running_pipeline, set_compiled_call
from eigenbank.loaders.hooks import NotCopyable
from eigenbank.loaders.target import TIMES, Target, arguments_of, denoiser_components
from eigenbank.schemas.errors import BranchError, SteerError

SingleBranch = Literal["cond", "uncond"]
_FIXED: contextvars.ContextVar[float | None] = contextvars.ContextVar("fixed progress", default=None)


@contextlib.contextmanager
def fixed_progress(done: float) -> Iterator[None]:
    """Inside, every denoiser call is at the fraction `done` of a run: of a single step drawn by itself."""
    token = _FIXED.set(done)
    try:
        yield
    finally:
        _FIXED.reset(token)


class DenoiserCall:
    """One call of a denoiser: its `arguments` by name, and the `batch` of rows.

    `owner` is the pipeline that runs, `local` what it knows at that moment: the local variables of its methods. `context` is
    the name of the `cache_context` of the call, or the prediction that a guider asks for. `latent` is the spatial shape of the denoiser's input, where that is a picture or
    a video: (h, w) or (frames, h, w).
    """

    def __init__(self, denoiser: nn.Module, owner: Any, arguments: Mapping[str, Any], context: str | None) -> None:
        noisy: Any = next(iter(arguments.values()), None)
        listed = isinstance(noisy, (list, tuple))
        while (
            listed and noisy and isinstance(noisy[0], (list, tuple))
        ):  # of each sample, the pictures that it is given and its own
            noisy = [each[-1] for each in noisy]
        shape = tuple(noisy[0].shape) if listed else tuple(getattr(noisy, "shape", (1,)))
        space = shape[1:] if listed else shape[2:]
        channels = getattr(getattr(denoiser, "config", None), "in_channels", None)
        if len(shape) == 5 and not listed and shape[2] == channels:
            space = (shape[1], *shape[3:])  # frames before channels; where both are as many it makes no difference
        self.arguments = arguments
        self.denoiser = denoiser
        self.batch: int = len(noisy) if listed else shape[0] if len(shape) > 1 else 1  # a row of words is one sample
        self.latent: tuple[int, ...] = space if len(space) in (2, 3) else ()
        self.owner, self.local = running_pipeline() or (owner, {})
        self.context = context or guider_branch(self.local)

    @functools.cached_property
    def done(self) -> float:
        """The fraction of the run that lies behind, in [0, 1). Raises SteerError where nothing says it."""
        if (fixed := _FIXED.get()) is not None:
            return fixed
        steps, place = self.local.get("timesteps"), self.local.get("i")
        if isinstance(steps, (Tensor, list, tuple)) and len(steps) and isinstance(place, int):
            return min(max(place / len(steps), 0.0), 1 - 1e-9)
        time = next((self.arguments[name] for name in TIMES if self.arguments.get(name) is not None), None)
        return run_progress(time, self.owner, self.denoiser)

    def ragged(self) -> bool:
        """Whether the texts of the batch have different lengths, by the mask that came with them."""
        for name, value in self.arguments.items():
            if "mask" in name and isinstance(value, Tensor) and value.ndim == 2 and value.shape[0] > 1:
                lengths = value.bool().sum(1)
                if bool((lengths != lengths[0]).any()):
                    return True
        return False

    def illustrated(self) -> bool:
        """Whether other pictures come among the tokens: in an argument of theirs, in lists beside the image, or between the words."""
        if self.arguments.get("image_cond_hidden_states") is not None:
            return True
        noisy, mask = next(iter(self.arguments.values()), None), self.arguments.get("img_mask")
        if isinstance(noisy, list) and any(isinstance(each, list) for each in noisy):
            return True
        return isinstance(mask, Tensor) and bool((mask[..., :-1] & ~mask[..., 1:]).any())


class _Contexts(NotCopyable):
    """Hears the names of the `cache_context`s that a denoiser is called in; shared by all that watch it."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.name: str | None = None
        self.watchers = 0
        self._own = vars(denoiser).get("cache_context")
        self._inner = getattr(denoiser, "cache_context", None)
        if self._inner is not None:
            vars(denoiser)["cache_context"] = self._context

    @contextlib.contextmanager
    def _context(self, name: str, **details: Any) -> Iterator[None]:
        assert self._inner is not None
        before, self.name = self.name, name
        try:
            with self._inner(name, **details):
                yield
        finally:
            self.name = before

    def leave(self, denoiser: nn.Module) -> None:
        """Stop hearing, once nobody watches the denoiser any more."""
        self.watchers -= 1
        if self.watchers == 0:
            del _contexts[denoiser]
            vars(denoiser).pop("cache_context", None)
            if self._own is not None:
                vars(denoiser)["cache_context"] = self._own


_contexts: "weakref.WeakKeyDictionary[nn.Module, _Contexts]" = weakref.WeakKeyDictionary()


class DenoiserCallWatcher(NotCopyable):
    """Calls `listener` with a DenoiserCall before each call of a denoiser; outside of what torch.compile made, if it did.

    Where the denoiser is a part of what somebody compiles, a listener that is not `needed` is not called.
    """

    def __init__(
        self, target: Target, name: str, listener: Callable[[DenoiserCall], None], *, needed: bool = True
    ) -> None:
        self.target = target
        self.denoiser = target.denoisers[name]
        self.wrapper = target.wrappers[name]
        self.listener = listener
        self.needed = needed
        self._undo = contextlib.ExitStack()

    def attach(self) -> None:
        """Start watching."""
        contexts = _contexts.get(self.denoiser) or _Contexts(self.denoiser)
        _contexts[self.denoiser] = contexts
        contexts.watchers += 1
        self._undo.callback(contexts.leave, self.denoiser)
        compiled = compiled_call(self.denoiser)
        if self.wrapper is self.denoiser and compiled is not None:

            def call_and_tell(*args: Any, **kwargs: Any) -> Any:
                self._tell(args, kwargs)
                return compiled(*args, **kwargs)

            set_compiled_call(self.denoiser, call_and_tell)
            self._undo.callback(set_compiled_call, self.denoiser, compiled)
        else:
            self._undo.callback(self.wrapper.register_forward_pre_hook(self._before, with_kwargs=True).remove)

    def remove(self) -> None:
        """Stop watching. Harmless when it was not."""
        self._undo.close()

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.needed or not torch.compiler.is_compiling():
            self._tell(args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _tell(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        context = _contexts[self.denoiser].name
        call = DenoiserCall(self.denoiser, self.target.owner, arguments_of(self.denoiser, args, kwargs), context)
        self.listener(call)


def branch_of(context: str | None) -> SingleBranch | None:
    """Return the branch of guidance that a `cache_context` names; None where it names none, or both."""
    if context is None or {"cond", "uncond"} <= set(context.split("_")):
        return None
    return "uncond" if "uncond" in context or "neg" in context else "cond"


def takes_text(denoiser: nn.Module) -> bool:
    """Whether a denoiser takes a prompt or class, so that pipelines stack the branches of guidance into one batch."""
    names = inspect.signature(type(denoiser).forward).parameters
    if any(
        name.startswith(("encoder_hidden_states", "cap_feats", "context", "clip_", "proj_embedding")) for name in names
    ):
        return True
    return "class_labels" in names and "UNet2DModel" not in type(denoiser).__name__


def branch_rows(target: Target, call: DenoiserCall, only: SingleBranch) -> Tensor:
    """Return 1 for each row of the batch that belongs to the branch `only`, 0 for the others: `(batch,)` float32.

    Pipelines name the branch by a `cache_context`, or stack both into one batch, or call the denoiser for each in turn: then
    the rows are told by which of the pipeline's texts they were given. Where there is nothing to compare with, a guided
    pipeline that calls its denoiser once a step stacks the unconditional rows before the conditional ones.
    Raises BranchError where nothing says which is which.
    """
    named = branch_of(call.context)
    if named is not None:
        return torch.full((call.batch,), float(named == only))
    branches = _branches_of(target, call)
    if branches is None:
        message = (
            f"a {type(call.owner).__name__} does not say which of its calls are conditional: branch={only!r} cannot be carried "
            "out, use branch='both'"
        )
        raise BranchError(message)
    if call.batch % len(branches):
        message = (
            f"a batch of {call.batch} rows does not divide into two branches of guidance: branch={only!r} cannot be "
            "carried out, use branch='both'"
        )
        raise BranchError(message)
    return torch.tensor([float(branch == only) for branch in branches]).repeat_interleave(call.batch // len(branches))


_GUIDED = ("do_classifier_free_guidance", "do_true_cfg", "perform_guidance", "do_cfg", "apply_cfg")
"""What pipelines of diffusers call the variable that says whether a run is guided."""
_UNCONDITIONAL = re.compile(r"(^|_)(neg|negative|uncond|unconditional|null)(_|$)")
"""A variable of a pipeline that holds something of the unconditional branch."""


def guidance_of(target: Target, call: DenoiserCall) -> bool | None:
    """Whether the run going on uses classifier-free guidance now; None where the pipeline does not say."""
    # What a run has decided goes before what the pipeline says: of a Panorama pipeline that is always no.
    said = next((call.local[name] for name in _GUIDED if isinstance(call.local.get(name), bool)), None)
    if said is None:
        said = _running(target, call).guided()
    return said


def _running(target: Target, call: DenoiserCall) -> Target:
    """Return the pipeline that runs, which may be another one with the same denoiser."""
    return target if call.owner is target.owner else Target(call.owner, denoiser_components(call.owner))


def _branches_of(target: Target, call: DenoiserCall) -> tuple[SingleBranch, ...] | None:
    """Return the branches in the batch, in their order; None where nothing says them."""
    run, guided = _running(target, call), guidance_of(target, call)
    if guided is False:
        return ("cond",)
    if hasattr(run.owner, "enabled_editing_prompts"):
        return None  # it edits by rows that are of neither branch
    in_turn, samples = run.calls_in_turn(), _rows(call.local.get("latents"))
    found = _branches_by_text(call, alone=in_turn or not guided)
    # Nothing negative is named; there is one row for each sample, or not a word of guidance.
    unnamed = not any(map(_UNCONDITIONAL.search, call.local))
    unspoken = not any(re.search("guidance|cfg", name) for name in call.local)
    if unnamed and (unspoken or (samples == call.batch and not in_turn)) and call.local and not guided:
        return found or (("cond",) if takes_text(call.denoiser) else None)
    disturbed = getattr(run.owner, "do_perturbed_attention_guidance", False)
    order: tuple[SingleBranch, ...] = ("uncond", "cond", "cond") if disturbed else ("uncond", "cond")
    stacked = guided and not in_turn and samples * len(order) in (0, call.batch)
    if found is None and (isinstance(run.owner, nn.Module) or stacked):
        return order
    return found


def _branches_by_text(call: DenoiserCall, *, alone: bool) -> tuple[SingleBranch, ...] | None:
    """Return the branches in the batch, in their order, by the texts that the pipeline gives its rows; None if not told.

    The rows are compared with the pipeline's variables: with those named as negative or unconditional, and the others.
    `alone`: the batch may be of one branch.
    """
    known = {name: value for name, value in call.local.items() if not name.startswith("noise_pred")}
    negative = [value for name, value in known.items() if _UNCONDITIONAL.search(name) and _rows(value)]
    positive = [value for name, value in known.items() if not _UNCONDITIONAL.search(name) and _rows(value)]
    given: list[Any] = []
    for name, value in list(call.arguments.items())[1:]:
        given.extend(value.values() if isinstance(value, Mapping) else [] if name in TIMES else [value])
    for value in given:
        if _rows(value) != call.batch:
            continue
        # Some guide by a picture too, or by attention that is disturbed: in three parts.
        for size in [call.batch // parts for parts in (2, 3) if call.batch % parts == 0]:
            parts = [value[start : start + size] for start in range(0, call.batch, size)]
            of_negative = [any(_same(part, each) for each in negative) for part in parts]
            if len(set(of_negative)) == 2:
                return tuple("uncond" if each else "cond" for each in of_negative)
        is_negative = any(_same(value, each) for each in negative)
        is_positive = any(value is each for each in positive)
        if alone and negative and is_negative != is_positive:
            return ("uncond",) if is_negative else ("cond",)
    return None


def _rows(value: Any) -> int:
    """How many samples a pipeline's variable describes, 0 if it is nothing like a text."""
    if isinstance(value, Tensor):
        return value.shape[0] if value.ndim else 0
    if isinstance(value, (list, tuple)) and all(isinstance(each, Tensor) for each in value):
        return len(value)
    return 0


def _same(value: Any, other: Any) -> bool:
    """Whether two texts are the same, one or both of which may be lists of samples."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        # A pipeline may have put an axis of one between.
        if value.shape[0] != other.shape[0] or value.numel() != other.numel() or value.device != other.device:
            return False
        return value.data_ptr() == other.data_ptr() or bool(
            torch.equal(value.flatten(), other.to(value.dtype).flatten())
        )
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return False
    return len(value) == len(other) > 0 and all(_same(a, b) for a, b in zip(value, other, strict=True))


def run_progress(time: Any, owner: Any, denoiser: nn.Module) -> float:
    """Return the fraction of the run that lies behind, from the time that a denoiser is called with.

    With the scheduler that the pipeline `owner` has at that moment: its own count of steps where it keeps one, else the
    place of the nearest of its timesteps. Without one: one minus the timestep over the number of timesteps trained on
    (1000 where that is not known), or one minus a time that is itself a fraction.
    """
    scheduler = getattr(owner, "scheduler", None)
    timesteps = getattr(scheduler, "timesteps", None)
    index = getattr(scheduler, "step_index", None)
    if timesteps is not None and isinstance(index, int):
        return min(index / len(timesteps), 1 - 1e-9)
    if time is None:
        message = (
            "the denoiser was called without a time: how far the run is cannot be told. Use scales that do not change"
        )
        raise SteerError(message)
    value = float(time.flatten().max()) if isinstance(time, Tensor) else float(time)
    if timesteps is not None:
        steps: list[float] = timesteps.tolist()
        # Some denoisers are given the fraction of a timestep, or the rest of one.
        meant = (value, value * 1000, 1000 - value * 1000) if value <= 1 and value not in steps else (value,)
        return steps.index(min(steps, key=lambda step: min(abs(step - each) for each in meant))) / len(steps)
    train_steps = getattr(getattr(owner, "config", None), "num_train_timesteps", None) or 1000
    tensor = isinstance(time, Tensor) and time.is_floating_point()
    fraction = tensor and value <= 1 and "UNet" not in type(denoiser).__name__
    return min(max(1 - value if fraction else 1 - (value + 1) / train_steps, 0.0), 1 - 1e-9)
