"""Steer a pipeline: add directions to its hidden states while it runs, and leave no trace.

with steer(pipe, {"smile": 1.5, "mid_block.attentions.0/output-value/3": -0.5}):
    images = pipe().images
"""

import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from eigenbank.loaders.active import ActiveEdit, EditTerm, merged_matches
from eigenbank.loaders.calibrate import token_lengths
from eigenbank.loaders.lookup import check_branch, parse_edits, requested_directions
from eigenbank.loaders.mask import as_mask
from eigenbank.loaders.match import Match, check, match
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.schedule import Scale, as_scale, as_window, scale_at
from eigenbank.loaders.target import Target
from eigenbank.registry.sets.direction_set import Direction, DirectionSet
from eigenbank.schemas.errors import FuseError, MatchError, SteerError
from eigenbank.schemas.recipe import SITES, Site
from eigenbank.schemas.sliders import Branch

if TYPE_CHECKING:
    from eigenbank.loaders.lookup import Edits

SiteName = Literal["input", "projection", "output", "block-input", "projection-input", "block-output"]

_numbers = itertools.count()


class Steering:
    """An edit of one pipeline: a context manager, or a handle with `attach`, `set_scale` and `remove`."""

    def __init__(self, target: Target, terms: Sequence[EditTerm], parts: Sequence[ActiveEdit]) -> None:
        self.target = target
        self.terms = list(terms)
        self.parts = list(parts)
        self._attached = False

    @property
    def denoiser(self) -> nn.Module:
        """The first of the pipeline's denoisers."""
        return next(iter(self.target.denoisers.values()))

    @property
    def attached(self) -> bool:
        """Whether the edit is acting on the pipeline now."""
        return self._attached

    def attach(self) -> "Steering":
        """Put the hooks in place. Raises SteerError if they are, or where the pipeline's mode refuses the edit."""
        if self.attached:
            message = "this edit is attached already: remove() it first, or make another with steer()"
            raise SteerError(message)
        self._attached = True
        try:
            for part in self.parts:
                part.attach()
        except BaseException:
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
            for part in self.parts:
                part.factor = float(factor)
        else:
            self._set_one(scale, key)
        if self.attached:
            for part in self.parts:
                part.refresh()

    def _set_one(self, scale: Scale, key: str | Direction) -> None:
        meant = [term for term in self.terms if _is_key(key, term)]
        if not meant:
            said = getattr(key, "full_id", repr(key))
            message = f"{said} is not part of this edit, which has {', '.join(term.key for term in self.terms)}"
            raise SteerError(message)
        before = [(term, term.scale) for term in self.terms]
        for term in meant:
            term.scale = scale
        try:
            _check_scales(self.terms)
            was_constant = all(not callable(old) and not as_scale(old, term.key).ndim for term, old in before)
            if self.attached and was_constant and (callable(scale) or as_scale(scale, meant[0].key).ndim):
                self._anew()
        except BaseException:
            for term, old in before:
                term.scale = old
            raise

    def remove(self) -> None:
        """Take the hooks away; the pipeline is what it was. Harmless when there are none."""
        for part in self.parts:
            part.remove()
        self._attached = False

    def _anew(self) -> None:
        """Attach again: a scale of another kind may need hooks that the old one did not."""
        self.remove()
        self.attach()

    def __enter__(self) -> "Steering":
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def steer(
    pipe: Any,
    edits: "Edits",
    *,
    bank: DirectionSet | None = None,
    site: SiteName | None = None,
    window: tuple[float, float] | None = None,
    branch: Branch = "both",
    mask: Any = None,
    fuse: bool = False,
    force: bool = False,
) -> Steering:
    """Prepare an edit of `pipe`, a diffusers pipeline or a bare denoiser; attach it with `with` or `.attach()`.

    `edits` maps labels, direction ids or Direction objects to scales: 1 adds a vector as long as a typical token of the
    layer. A sequence of scales gives every sample of the batch its own; a callable gives the scale for a fraction of the
    run (see `ramp` and `windowed`). Labels and ids are looked up in `bank`, else in the catalog's set for the model the
    pipeline was opened as (`open_pipeline`), or for the checkpoint it was loaded from. Sliders, or the path of a sliders
    file, are looked up in the catalog's set for the model they name; what they say of a direction overrides the arguments
    here. All directions of one site become one addition.

    `site` adds elsewhere than the recipe says: `input` of the block (the residual stream), `projection` (after the norm) or
    `output`. `window=(start, end)`, fractions of the run, replaces the recipe's. `branch` acts on one branch of
    classifier-free guidance alone, `cond` or `uncond`. `mask`, `(h, w)` or `(samples, h, w)` in [0, 1] and as large as the
    image, limits where. `fuse` writes constant edits of the output into the layer's bias: no cost per step. A pipeline with
    several denoisers is edited in all that match.

    Raises UnknownNameError, MatchError (the directions do not belong to these weights; `force` overrides all but
    another width or architecture) or SteerError. While it is steered a denoiser cannot be deep-copied or pickled; a fused
    edit goes into the copy.
    """
    edits = parse_edits(edits)
    check_branch(branch)
    elsewhere = None if site is None else as_site(site)
    part_of_run = None if window is None else as_window(window)
    target = target_of(pipe)
    wanted = requested_directions(target, edits, bank)
    directions = [each.direction for each in wanted]
    matches = _matches(target, directions, force)
    sites = [each.site or elsewhere or each.direction.recipe.site for each in wanted]
    lengths = token_lengths(target, list(zip(directions, sites, strict=True)))
    terms = []
    for number, (each, length) in enumerate(zip(wanted, lengths, strict=True)):
        said = {name: str(found[number]) for name, found in matches.items()}
        acting_branch = each.branch or branch
        terms.append(
            EditTerm(
                key=each.key,
                direction=each.direction,
                vector=each.direction.vector * (each.weight * length),
                scale=each.scale,
                match=merged_matches(said),
                site=sites[number],
                window=each.window or part_of_run or each.direction.recipe.window,
                branch=None if acting_branch == "both" else acting_branch,
                matches=said,
            )
        )
    _check_scales(terms)
    where = None if mask is None else as_mask(mask)
    if fuse:
        _check_fusable(terms, where is not None)
    name = f"eigenbank-{next(_numbers)}"
    parts = [ActiveEdit(target, part, terms, hook_name=name, mask=where, fuse=fuse) for part in matches]
    return Steering(target, terms, parts)


def as_site(site: str) -> Site:
    """Return a site by its short or its full name. Raises SteerError for what is none."""
    known: dict[str, Site] = {**SITES, **{full: full for full in SITES.values()}}
    if site not in known:
        message = f"site={site!r}: expected 'input' of the block, 'projection' (after the norm) or 'output'"
        raise SteerError(message)
    return known[site]


def check_match(pipe: Any, direction: Direction, force: bool = False) -> str:
    """Say how a direction matches a pipeline: `exact`, `transfer 0.98`, or, with `force`, `foreign 0.41`. Raises MatchError."""
    matches = _matches(target_of(pipe), [direction], force)
    return merged_matches({name: str(found[0]) for name, found in matches.items()})


def _matches(target: Target, directions: Sequence[Direction], force: bool) -> dict[str, list[Match]]:
    """Return the denoisers that all the directions match, and how. Raises the first denoiser's MatchError where none does.

    A set names the component it was built from; where the target has that, it is asked first, and has to match.
    """
    built = {direction.bank.manifest.checkpoint.component for direction in directions}
    names = sorted(target.denoisers, key=lambda name: name not in built)
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
        now = [scale_at(term.scale, done, term.key) for done in (0.0, 0.5, 1 - 1e-9)]
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
        if why is not None:
            raise FuseError(repr(term.key), why, elsewhere=term.site != "block-output")
