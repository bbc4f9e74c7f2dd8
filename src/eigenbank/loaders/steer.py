"""Steer a pipeline: add directions to its hidden states while it runs, and leave no trace.

with steer(pipe, {"smile": 1.5, "mid_block.attentions.0/output-value/3": -0.5}):
    images = pipe().images
"""

import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from eigenbank.loaders.active_edit import ActiveEdit, EditTerm, RunRecord, UnmetWarning
from eigenbank.loaders.adapters import LoraTerm
from eigenbank.loaders.denoiser_calls import takes_text
from eigenbank.loaders.drawing import guidance_of, unguided
from eigenbank.loaders.lookup import RequestedDirection, check_branch, parse_edits, requested_directions
from eigenbank.loaders.mask import as_mask
from eigenbank.loaders.match import Match, check, match
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.schedule import Scale, as_scale, as_window, scale_at
from eigenbank.loaders.target import Target, unwrapped
from eigenbank.registry.sets.direction_set import Direction, DirectionSet, Lora
from eigenbank.schemas.errors import BranchError, FuseError, MatchError, SteerError
from eigenbank.schemas.recipe import SITES, Branch, Site

if TYPE_CHECKING:
    from eigenbank.loaders.lookup import Edits
    from eigenbank.schemas.drawing import Drawing

SiteName = Literal["input", "projection", "output", "block-input", "projection-input", "block-output"]


class Steering:
    """An edit of one pipeline: a context manager, or a handle with `attach`, `set_scale` and `remove`."""

    def __init__(
        self, target: Target, run: RunRecord, parts: Sequence[ActiveEdit], loras: Sequence[LoraTerm] = ()
    ) -> None:
        self.target = target
        self.terms = run.terms
        self.parts = list(parts)
        self.loras = list(loras)
        self._acting: list[ActiveEdit | LoraTerm] = [*parts, *loras]
        self._run = run
        self.attached = False
        """Whether the edit is acting on the pipeline now."""

    def check_guided(self, drawing: "Drawing", call: Mapping[str, Any] = {}) -> None:
        """Raise SteerError, before anything is drawn, for a branch of guidance that a drawing is known not to have."""
        pipe = self.target.owner
        asked = {term.branch: term.key for term in self.terms if term.branch is not None}
        if not asked or not unguided(pipe, drawing, call):
            return
        if not any(map(takes_text, self.target.denoisers.values())):
            problem = f"a {self.target.kind} has no guidance, so {next(iter(asked.values()))!r} cannot act on one branch of it"
            raise BranchError(problem, outcome="nothing was drawn", advice="Leave the branch out, or say 'both'")
        if "uncond" in asked:
            scale = guidance_of(pipe, drawing)
            why = "" if scale is None or scale > 1 else f" at a guidance scale of {scale:g}"
            problem = (
                f"{asked['uncond']!r} is to act on the unconditional branch of guidance, and the run has none{why}"
            )
            advice = "Guide it (`guidance_scale=` above 1), or choose another branch"
            raise BranchError(problem, outcome="nothing was drawn", advice=advice)

    def attach(self) -> "Steering":
        """Put the hooks in place. Raises SteerError if they are, or where the pipeline's mode refuses the edit."""
        if self.attached:
            message = "this edit is attached already: remove() it first, or make another with steer()"
            raise SteerError(message)
        self.attached = True
        try:
            for lora in self.loras:  # before the hooks, which then are on the layers that adapters put in place
                lora.attach(self.target.owner)
            for part in self.parts:
                part.attach()
        except BaseException:
            self._run.forget()
            self.remove()
            raise
        return self

    def set_scale(self, scale: Scale, key: str | Direction | None = None) -> None:
        """Set the scale of one direction by its key in the edit, or, without a key, a factor on all of them.

        Nothing is recompiled by it. Raises SteerError for what is no scale, or no part of the edit; then nothing has changed.
        """
        if key is None:
            factor = as_scale(float("nan") if callable(scale) else scale, "all directions")
            if factor.ndim:
                message = "a factor on all directions is one number: name a direction to give each sample its own scale"
                raise SteerError(message)
            for part in self._acting:
                part.factor = float(factor)
        else:
            self._set_one(scale, key)
        if self.attached:
            for part in self._acting:
                part.refresh()

    def _set_one(self, scale: Scale, key: str | Direction) -> None:
        meant = [term for term in self.terms if _is_key(key, term)]
        loras = [lora for lora in self.loras if lora.key == getattr(key, "id", key)]
        if not meant and not loras:
            said = getattr(key, "full_id", repr(key))
            keys = ", ".join([*(term.key for term in self.terms), *(lora.key for lora in self.loras)])
            message = f"{said} is not part of this edit, which has {keys}"
            raise SteerError(message)
        for lora in loras:
            lora.scale = _constant(scale, lora.key)
        if not meant:
            return
        before = [(term, term.scale) for term in self.terms]
        for term in meant:
            term.scale = scale
        try:
            _check_scales(self.terms)
            was_constant = all(not callable(old) and not as_scale(old, term.key).ndim for term, old in before)
            if self.attached and was_constant and (callable(scale) or as_scale(scale, meant[0].key).ndim):
                for part in self.parts:  # attached again: a scale of another kind may need to be told of every call
                    part.remove()
                    part.attach()
        except BaseException:
            for term, old in before:
                term.scale = old
            raise

    def remove(self) -> None:
        """Take the hooks away; the pipeline is what it was. Harmless when there are none.

        Warns UnmetWarning of directions that no step of the last run met, and of a denoiser that another took the place of.
        """
        owner = self.target.owner
        gone = [
            part.name for part in self.parts if unwrapped(getattr(owner, part.name, part.denoiser)) is not part.denoiser
        ]
        if gone and self.attached:
            text = f"the pipeline's {' and '.join(gone)} was replaced while it was edited: the new one was not. Steer it anew"
            warnings.warn(text, UnmetWarning, stacklevel=2)
        off = [lora.key for lora in self.loras if lora.switched_off()]
        if off:
            text = f"{', '.join(map(repr, off))} was switched off or fused while it was attached, by a change of the pipeline's own adapters"
            warnings.warn(text, UnmetWarning, stacklevel=2)
        for part in self._acting:
            part.remove()
        self.attached = False
        self._run.end()

    def forget_run(self) -> None:
        """Forget the run going on, which was cut short: what it did not come to is no fault of the edit."""
        self._run.forget()

    def __enter__(self) -> "Steering":
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._run.forget()
        self.remove()


def steer(
    pipe: Any,
    edits: "Edits",
    *,
    bank: DirectionSet | None = None,
    site: SiteName | None = None,
    window: tuple[float, float] | None = None,
    branch: Branch | None = None,
    mask: Any = None,
    fuse: bool = False,
    force: bool = False,
) -> Steering:
    """Prepare an edit of `pipe`, a diffusers pipeline or a bare denoiser; attach it with `with` or `.attach()`.

    `edits` maps labels, direction ids or Direction objects to scales: 1 adds a vector as long as the root mean square token
    of the image, of that sample, where and when it is added. A sequence of scales gives every sample of the batch its own; a callable gives the scale for a fraction of the
    run (see `ramp` and `windowed`). Labels and ids are looked up in `bank`, else in the catalog's set for the model the
    pipeline was opened as (`open_pipeline`), or for the checkpoint it was loaded from. Sliders, or the path of a sliders
    file, are looked up in the catalog's set for the model they name; what they say of a direction overrides the arguments
    here. All directions of one site become one addition. A LoRA of the set acts as an adapter of that weight.

    `site` adds elsewhere than the recipe says: `input` of the block (the residual stream), `projection` (after the norm) or
    `output`. `window=(start, end)`, fractions of the run, replaces the recipe's. `branch` acts on one branch of
    classifier-free guidance alone, `cond` or `uncond`, or on `both`; by default a slider acts on both, a composite on what it is made for. `mask`, `(h, w)` or `(samples, h, w)` in [0, 1] and as large as the
    image, limits where. `fuse` writes constant edits of the output into the layer's bias: no cost per step. A pipeline with
    several denoisers is edited in all that match, by a set of several each in its own layers.

    Raises UnknownNameError, MatchError (the directions do not belong to these weights; `force` overrides all but
    another width or architecture) or SteerError. While it is steered a denoiser cannot be deep-copied or pickled; a fused
    edit goes into the copy.
    """
    edits = parse_edits(edits)
    check_branch(branch)
    elsewhere = None if site is None else as_site(site)
    part_of_run = None if window is None else as_window(window)
    target = target_of(pipe)
    asked = requested_directions(target, edits, bank)
    loras = [_lora_term(each) for each in asked if isinstance(each.direction, Lora)]
    if loras and (elsewhere or part_of_run or branch not in (None, "both") or mask is not None or fuse):
        message = f"{loras[0].key!r} is a LoRA: it acts everywhere, in every step and on both branches. Give site, window, branch, mask and fuse to directions alone"
        raise SteerError(message)
    wanted = [(each, each.direction) for each in asked if isinstance(each.direction, Direction)]
    directions = [direction for _, direction in wanted]
    matches = matching_denoisers(target, directions, force)
    sites = [each.site or elsewhere or direction.recipe.site for each, direction in wanted]
    terms = []
    for number, (each, direction) in enumerate(wanted):
        said = {name: str(found) for name, found in matches[number].items()}
        acting_branch = each.branch or branch or each.own_branch
        terms.append(
            EditTerm(
                key=each.key,
                direction=direction,
                vector=direction.vector * each.weight,
                scale=each.scale,
                match=merged_matches(said),
                site=sites[number],
                window=each.window or part_of_run or direction.recipe.window,
                branch=None if acting_branch == "both" else acting_branch,
                matches=said,
            )
        )
    _check_scales(terms)
    where = None if mask is None else as_mask(mask)
    if fuse:
        _check_fusable(terms, where is not None)
    run = RunRecord(terms)
    names = {name for term in terms for name in term.matches}
    if any(term.direction.bank.layers[term.direction.layer].component for term in terms):
        names.update(target.denoisers)  # a run of another denoiser alone is a run in which the direction did nothing
    parts = {name: [term for term in terms if name in term.matches] for name in target.denoisers if name in names}
    return Steering(
        target,
        run,
        [ActiveEdit(target, name, mine, run, mask=where if mine else None, fuse=fuse) for name, mine in parts.items()],
        loras,
    )


def _lora_term(asked: RequestedDirection) -> LoraTerm:
    """Make the term of a LoRA. Raises SteerError for what an adapter cannot do."""
    assert isinstance(asked.direction, Lora)
    if asked.window or asked.branch not in (None, "both") or asked.site:
        message = f"{asked.key!r} is a LoRA: it has no window, branch or site of its own"
        raise SteerError(message)
    return LoraTerm(asked.key, asked.direction, _constant(asked.scale, asked.key), asked.weight)


def _constant(scale: Scale, key: str) -> float:
    """Return a scale that is one number. Raises SteerError for any other."""
    found = as_scale(float("nan") if callable(scale) else scale, key)
    if found.ndim:
        message = f"{key!r} is a LoRA, whose scale is one number for all samples of a batch"
        raise SteerError(message)
    return float(found)


def as_site(site: str) -> Site:
    """Return a site by its short or its full name. Raises SteerError for what is none."""
    known: dict[str, Site] = {**SITES, **{full: full for full in SITES.values()}}
    if site not in known:
        message = f"site={site!r}: expected 'input' of the block, 'projection' (after the norm) or 'output'"
        raise SteerError(message)
    return known[site]


def matching_denoisers(target: Target, directions: Sequence[Direction], force: bool) -> list[dict[str, Match]]:
    """Return for each direction the denoisers it matches, and how. Raises MatchError where it matches none."""
    layers = [direction.bank.layers[direction.layer] for direction in directions]
    found: list[dict[str, Match]] = [{} for _ in directions]
    for component in dict.fromkeys(layer.component for layer in layers):
        numbers = [number for number, layer in enumerate(layers) if layer.component == component]
        names = [name for name in target.denoisers if layers[numbers[0]].may_be_of(name)]
        mine = [directions[number] for number in numbers]
        if not names:
            message = f"{mine[0].full_id} is of a pipeline's {component}, and this {target.kind} has none: nothing was changed"
            raise MatchError(message)
        for name, matches in _matching(target, names, mine, force).items():
            for number, each in zip(numbers, matches, strict=True):
                found[number][name] = each
    return found


def _matching(
    target: Target, names: Sequence[str], directions: Sequence[Direction], force: bool
) -> dict[str, list[Match]]:
    """Return the denoisers that all the directions match, and how. Raises the first denoiser's MatchError where none does.

    A set names the component it was built from; where the target has that, it is asked first, and has to match.
    """
    built = {direction.bank.manifest.checkpoint.component for direction in directions}
    names = sorted(names, key=lambda name: name not in built)
    found: dict[str, list[Match]] = {}
    problem: MatchError | None = None
    for name in names:
        matches = match(target, target.denoisers[name], directions)
        try:
            for each in matches:
                # Of several denoisers only the first is forced: another may be one of another kind.
                check(each, force and (name == names[0] or not found))
        except MatchError as error:
            problem = problem or error
            continue
        found[name] = matches
    if not found:
        assert problem is not None
        raise problem
    return found


def _is_key(key: str | Direction, term: EditTerm) -> bool:
    """Whether a key names a term. A Direction names what was given as such, or by its id: a label has its own sign."""
    if isinstance(key, Direction):
        return term.direction.full_id == key.full_id and term.key in (key.id, key.full_id)
    return term.key == key


def _check_scales(terms: Sequence[EditTerm]) -> None:
    """Raise SteerError for what is no scale, or gives scales for batches of several sizes at once."""
    batches = set()
    for term in terms:
        times = (0.0, 0.5, 1 - 1e-9) if callable(term.scale) else (0.0,)
        now = [scale_at(term.scale, done, term.key) for done in times]
        batches |= {len(scale) for scale in now if scale.ndim}
    if len(batches) > 1:
        message = f"the edit gives scales for batches of {sorted(batches)} samples at once: give each direction as many"
        raise SteerError(message)


def _check_fusable(terms: Sequence[EditTerm], masked: bool) -> None:
    """Raise SteerError for what a bias cannot express: it is the same for every sample, token, step and branch."""
    for term in terms:
        why = None
        if term.site != "block-output":
            why = f"it is added at the {term.site}, a bias adds at the block-output"
        elif not term.constant:
            why = "its scale changes over the run"
        elif as_scale(term.scale, term.key).ndim:  # type: ignore[arg-type]
            why = "it has a scale per sample"
        elif term.branch is not None or masked:
            why = "it acts on one branch of guidance, or on a part of the image"
        elif term.site not in term.direction.bank.layers[term.direction.layer].lengths:
            why = (
                "a bias is a constant, and the set has no token length for it: measure it once with "
                f"`eigenbank measure {term.direction.bank.model_id}`, or eb.measure(pipe, set), and give the set that it returns as bank="
            )
        if why is not None:
            raise FuseError(repr(term.key), why, elsewhere=term.site != "block-output")


def merged_matches(matches: Mapping[str, str]) -> str:
    """Say how a term matches the denoisers: in a word where all agree, else one for each."""
    found = list(matches.values())
    return found[0] if len(set(found)) <= 1 else ", ".join(f"{name} {text}" for name, text in matches.items())
