"""An edit at work on one denoiser: what is added at each of its sites, worked out anew when a pass asks for something else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.loaders.denoiser_calls import DenoiserCall, DenoiserCallWatcher, SingleBranch, branch_rows, takes_text
from eigenbank.loaders.fuse import FusedBias
from eigenbank.loaders.hooks import AddHook, attach, detach
from eigenbank.loaders.mask import Mask
from eigenbank.loaders.schedule import Scale, scale_at
from eigenbank.loaders.target import Target, computing
from eigenbank.registry.sets.direction_set import Direction
from eigenbank.schemas.errors import MatchError, SteerError
from eigenbank.schemas.recipe import Site, Window

CACHES = {
    "faster_cache_denoiser": "FasterCache works out the unconditional half without a pass of the denoiser",
}
"""Hooks of diffusers on a denoiser that change its batch behind an edit's back, and how."""


@dataclass
class EditTerm:
    """One direction of an edit: where it is added, `vector` for scale 1 in the wanted polarity, and its scale now.

    `guidance` is the one half of classifier-free guidance it acts on, None for both.
    `match` says how it matches the pipeline's first denoiser, `matches` each of them by name.
    """

    key: str
    direction: Direction
    vector: Tensor
    scale: Scale
    match: str
    site: Site
    window: Window
    branch: SingleBranch | None = None
    matches: dict[str, str] = field(default_factory=dict)

    @property
    def constant(self) -> bool:
        """Whether its scale is the same over the whole run."""
        return self.window.whole and not callable(self.scale)

    def at(self, done: float) -> Tensor:
        """The scale when the fraction `done` of the run lies behind, of no axis or `(samples,)`. Raises SteerError."""
        if done not in self.window:
            return torch.zeros(())
        return scale_at(self.scale, done, self.key)


@dataclass
class _EditSite:
    """A site of one layer, its terms, and what acts there: a hook on some modules, or a fuse."""

    terms: list[EditTerm]
    hooks: list[AddHook]
    fuse: FusedBias | None = None

    def set(self, delta: Tensor) -> None:
        for hook in self.hooks:
            hook.set(delta)
        if self.fuse is not None:
            self.fuse.set(delta[0])


class ActiveEdit:
    """The hooks of an edit on the denoiser `name` of a target. `terms` are those that match it."""

    def __init__(
        self,
        target: Target,
        name: str,
        terms: Sequence[EditTerm],
        *,
        hook_name: str,
        mask: Tensor | None,
        fuse: bool,
    ) -> None:
        self.target = target
        self.denoiser = target.denoisers[name]
        self.name = name
        self.terms = list(terms)
        self.hook_name = hook_name
        self.mask = mask
        self.fuse = fuse
        self.factor = 1.0
        self.spots: list[_EditSite] = []
        self._done = 0.0
        self._rows: tuple[int, dict[SingleBranch | None, tuple[float, ...]]] = (1, {})
        self._space: tuple[int, tuple[int, ...]] = (0, ())
        self._watch: DenoiserCallWatcher | None = None
        self._attached: list[nn.Module] = []

    def attach(self) -> None:
        """Put the hooks in place. Raises MatchError or SteerError; the caller removes what is there by then."""
        sites: dict[tuple[int, str, Site], list[EditTerm]] = {}
        for term in self.terms:
            sites.setdefault((id(term.direction.bank), term.direction.layer, term.site), []).append(term)
        # Two banks may know the same layer: each has a hook of its own there.
        for number, ((_, name, site), terms) in enumerate(sites.items()):
            layer = terms[0].direction.bank.layers[name]
            if self.fuse:
                fuse = FusedBias(self.target, self.denoiser, layer)
                spot = _EditSite(terms, [], fuse)
                self.spots.append(spot)
                fuse.attach()
                continue
            place = self.target.place(self.denoiser, layer, site)
            device, dtype = computing(self.denoiser)
            spot = _EditSite(terms, [])
            self.spots.append(spot)
            for path in place.modules:
                hook = AddHook(place, layer.width)
                hook.delta = hook.delta.to(device, dtype)
                module = self.target.module(self.denoiser, path)
                attach(module, hook, f"{self.hook_name}/{number}/{site}/{layer.name}")
                self._attached.append(module)
                spot.hooks.append(hook)
            if self.mask is not None and layer.kind == "temporal":
                message = f"{layer.name} attends over frames: a mask cannot act there. Leave its directions out of the masked edit"
                raise SteerError(message)
        self._refuse_caches()
        if self._needs_passes():
            self._watch = DenoiserCallWatcher(self.target, self.name, f"{self.hook_name}/pass", self._called)
            self._watch.attach()
        self.refresh()

    def remove(self) -> None:
        """Take the hooks away, restore what was folded. Harmless when there are none."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None
        while self._attached:
            module = self._attached.pop()
            registry = module.__dict__.get("_diffusers_hook")
            for name in (
                [] if registry is None else [name for name in registry.hooks if name.split("/")[0] == self.hook_name]
            ):
                detach(module, name)
        while self.spots:
            fuse = self.spots.pop().fuse
            if fuse is not None:
                fuse.remove()

    def refresh(self) -> None:
        """Work out what every site adds, so that a pass of the denoiser costs one addition per site."""
        scales = {id(term): term.at(self._done) * self.factor for term in self.terms}
        batch, branches = self._rows
        for spot in self.spots:
            here = [scales[id(term)] for term in spot.terms]
            rows = max([1, *(len(scale) for scale in here if scale.ndim)])
            matrix = torch.stack([scale.expand(rows) for scale in here], 1)
            if rows > 1 and self._watch is not None and batch > 1:
                matrix = matrix.repeat(batch // rows, 1)
            shares = [torch.tensor(branches.get(term.branch, (1.0,))) for term in spot.terms]
            # A pass that is one half of guidance as a whole needs no row for each sample.
            shares = [share[:1] if bool((share == share[0]).all()) else share for share in shares]
            matrix = matrix.expand(max(len(matrix), *map(len, shares)), -1)
            matrix = matrix * torch.stack([share.expand(len(matrix)) for share in shares], 1)
            spot.set(matrix @ torch.stack([term.vector for term in spot.terms]))

    def _needs_passes(self) -> bool:
        counted = any(hook.place.count is not None for spot in self.spots for hook in spot.hooks)
        per_sample = any(term.at(done).ndim for term in self.terms for done in (0.0, 0.5, 1 - 1e-9))
        changing = any(not term.constant for term in self.terms)
        return counted or per_sample or changing or bool(self._branches()) or self.mask is not None

    def _branches(self) -> list[SingleBranch]:
        """The branches of guidance that some direction acts on alone."""
        return sorted({term.branch for term in self.terms if term.branch is not None})

    def _refuse_caches(self) -> None:
        registry = self.denoiser.__dict__.get("_diffusers_hook")
        branches = self._branches()
        per_row = branches or any(term.at(0.0).ndim for term in self.terms)
        for name, why in CACHES.items():
            hook = None if registry is None else registry.hooks.get(name)
            if hook is not None and not getattr(hook, "is_guidance_distilled", False) and per_row:
                message = (
                    f"{why}: scales per sample and branch={' and '.join(branches) or 'both'!r} cannot be carried out. Use one scale "
                    "and branch='both', or disable_cache() first. Nothing was changed"
                )
                raise SteerError(message)

    def _called(self, call: DenoiserCall) -> None:
        """Before each pass: what it needs that the last one did not."""
        samples = {len(scale) for term in self.terms if (scale := term.at(call.done)).ndim}
        for size in samples:
            stacked = takes_text(self.denoiser) and self.target.guided() is not False
            if call.batch != size and (call.batch % size or not stacked):
                message = (
                    f"the edit has {size} scales, one per sample, and the batch is {call.batch}: "
                    "give as many scales as the pipeline makes images"
                )
                raise MatchError(message)
        branches: dict[SingleBranch | None, tuple[float, ...]] = {
            half: tuple(branch_rows(self.target, call, half).tolist()) for half in self._branches()
        }
        for spot in self.spots:
            for hook in spot.hooks:
                if hook.place.count is not None:
                    hook.tokens = call.count(hook.place.count)
                    if hook.place.image == "last" and call.ragged():
                        # Shorter texts end in padding, which some denoisers move behind the image.
                        message = (
                            f"the texts of this batch have different lengths, so nobody can tell where {spot.terms[0].direction.layer} "
                            "has its image tokens: draw one prompt at a time. Nothing was changed"
                        )
                        raise MatchError(message)
        if self.mask is not None and self._space != (call.batch, call.latent):
            self._space = (call.batch, call.latent)
            self._set_masks(call)
        rows = (call.batch if samples or branches else 1, branches)
        moved = any(self._moves(term, call.done) for term in self.terms)
        changed = moved or rows != self._rows
        self._rows, self._done = rows, call.done
        if changed:
            self.refresh()

    def _moves(self, term: EditTerm, done: float) -> bool:
        """Whether a term's scale may be another at `done` than it was at the last pass."""
        within = done in term.window
        return within != (self._done in term.window) or (within and callable(term.scale) and done != self._done)

    def _set_masks(self, call: DenoiserCall) -> None:
        assert self.mask is not None
        rows = self.mask
        if len(rows) > 1:
            if call.batch % len(rows):
                message = f"there are {len(rows)} masks, one per sample, and the batch is {call.batch}: give as many as the pipeline makes images"
                raise MatchError(message)
            rows = rows.repeat(call.batch // len(rows), 1, 1)
        made = Mask(rows, call.batch, call.latent)
        for spot in self.spots:
            for hook in spot.hooks:
                hook.mask = made


def merged_matches(matches: Mapping[str, str]) -> str:
    """How a term matches, in a word or one for each denoiser."""
    found = list(matches.values())
    return found[0] if len(set(found)) <= 1 else ", ".join(f"{name} {text}" for name, text in matches.items())
