"""An active edit: what is added at each site of one denoiser, worked out again when a call asks for something else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import hook_registry
from eigenbank.loaders.denoiser_calls import DenoiserCall, DenoiserCallWatcher, SingleBranch, branch_rows, takes_text
from eigenbank.loaders.fuse import FusedBias
from eigenbank.loaders.hooks import AddHook, attach, detach
from eigenbank.loaders.mask import Mask
from eigenbank.loaders.schedule import Scale, scale_at
from eigenbank.loaders.target import Target, device_and_dtype
from eigenbank.registry.sets.direction_set import Direction
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import MatchError, SteerError
from eigenbank.schemas.recipe import Site, Window

CACHES = {
    "faster_cache_denoiser": "FasterCache works out the unconditional branch without calling the denoiser",
}
"""Hooks of diffusers on a denoiser that change its batch behind an edit's back, and how."""


@dataclass
class EditTerm:
    """One direction of an edit: where it is added, `vector` for scale 1 in the wanted polarity, and its scale now.

    `branch` is the one branch of guidance it acts on, None for both. `match` says how it matches the pipeline's
    denoisers in one line, `matches` each of them by name.
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
        """Return the scale when the fraction `done` of the run lies behind, `()` or `(samples,)`. Raises SteerError."""
        if done not in self.window:
            return torch.zeros(())
        return scale_at(self.scale, done, self.key)


@dataclass
class _EditedSite:
    """A site of one layer, the terms added there, and what adds them: a hook on some modules, or a fused bias."""

    terms: list[EditTerm]
    hooks: list[AddHook] = field(default_factory=list)
    bias: FusedBias | None = None

    def set(self, delta: Tensor) -> None:
        for hook in self.hooks:
            hook.set(delta)
        if self.bias is not None:
            self.bias.set(delta[0])


class ActiveEdit:
    """The hooks of an edit on the denoiser `name` of a target. `terms` are those that match it."""

    def __init__(
        self, target: Target, name: str, terms: Sequence[EditTerm], *, hook_name: str, mask: Tensor | None, fuse: bool
    ) -> None:
        self.target = target
        self.denoiser = target.denoisers[name]
        self.name = name
        self.terms = list(terms)
        self.hook_name = hook_name
        self.mask = mask
        self.fuse = fuse
        self.factor = 1.0
        self.sites: list[_EditedSite] = []
        self._attached: list[tuple[nn.Module, str]] = []
        self._watcher: DenoiserCallWatcher | None = None
        # What the last call was: how far the run, its batch with the rows of each branch, and its spatial shape.
        self._done = 0.0
        self._rows: tuple[int, dict[SingleBranch | None, tuple[float, ...]]] = (1, {})
        self._space: tuple[int, tuple[int, ...]] = (0, ())

    def attach(self) -> None:
        """Put the hooks in place. Raises MatchError or SteerError; the caller removes what is there by then."""
        grouped: dict[tuple[int, str, Site], list[EditTerm]] = {}
        for term in self.terms:
            grouped.setdefault((id(term.direction.bank), term.direction.layer, term.site), []).append(term)
        # Two sets may know the same layer: each has a hook of its own there.
        for number, ((_, name, site), terms) in enumerate(grouped.items()):
            layer = terms[0].direction.bank.layers[name]
            edited = _EditedSite(terms)
            self.sites.append(edited)
            if self.fuse:
                edited.bias = FusedBias(self.target, self.denoiser, layer)
                edited.bias.attach()
            else:
                self._hook(edited, layer, site, number)
        self._refuse_caches()
        if self._needs_calls():
            self._watcher = DenoiserCallWatcher(self.target, self.name, f"{self.hook_name}/call", self._called)
            self._watcher.attach()
        self.refresh()

    def _hook(self, edited: _EditedSite, layer: Layer, site: Site, number: int) -> None:
        """Hook the modules of a site. Raises SteerError for a mask where it cannot act."""
        point = self.target.hook_point(self.denoiser, layer, site)
        device, dtype = device_and_dtype(self.denoiser)
        for path in point.modules:
            hook = AddHook(point, layer.width)
            hook.delta = hook.delta.to(device, dtype)
            module = self.target.module(self.denoiser, path)
            name = f"{self.hook_name}/{number}/{site}/{layer.name}"
            attach(module, hook, name)
            self._attached.append((module, name))
            edited.hooks.append(hook)
        if self.mask is not None and layer.kind == "temporal":
            message = f"{layer.name} attends over frames: a mask cannot act there. Leave its directions out of the masked edit"
            raise SteerError(message)

    def remove(self) -> None:
        """Take the hooks away and restore fused biases. Harmless when there are none."""
        if self._watcher is not None:
            self._watcher.remove()
            self._watcher = None
        while self._attached:
            detach(*self._attached.pop())
        while self.sites:
            bias = self.sites.pop().bias
            if bias is not None:
                bias.remove()

    def refresh(self) -> None:
        """Work out what every site adds, so that a call of the denoiser costs one addition per site."""
        scales = {id(term): term.at(self._done) * self.factor for term in self.terms}
        batch, branches = self._rows
        for edited in self.sites:
            here = [scales[id(term)] for term in edited.terms]
            rows = max([1, *(len(scale) for scale in here if scale.ndim)])
            matrix = torch.stack([scale.expand(rows) for scale in here], 1)
            if rows > 1 and self._watcher is not None and batch > 1:
                matrix = matrix.repeat(batch // rows, 1)
            shares = [torch.tensor(branches.get(term.branch, (1.0,))) for term in edited.terms]
            # A call that is one branch of guidance as a whole needs no row for each sample.
            shares = [share[:1] if bool((share == share[0]).all()) else share for share in shares]
            matrix = matrix.expand(max(len(matrix), *map(len, shares)), -1)
            matrix = matrix * torch.stack([share.expand(len(matrix)) for share in shares], 1)
            edited.set(matrix @ torch.stack([term.vector for term in edited.terms]))

    def _needs_calls(self) -> bool:
        """Whether the denoiser's calls must be watched: where anything depends on the step, the batch or the image's size."""
        counted = any(hook.point.count is not None for edited in self.sites for hook in edited.hooks)
        per_sample = any(term.at(done).ndim for term in self.terms for done in (0.0, 0.5, 1 - 1e-9))
        changing = any(not term.constant for term in self.terms)
        return counted or per_sample or changing or bool(self._branches()) or self.mask is not None

    def _branches(self) -> list[SingleBranch]:
        """The branches of guidance that some direction acts on alone."""
        return sorted({term.branch for term in self.terms if term.branch is not None})

    def _refuse_caches(self) -> None:
        """Raise SteerError where a cache of diffusers changes the batch that scales per sample or branch count on."""
        registry = hook_registry(self.denoiser)
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
        """Before each call: set what it needs that the last one did not."""
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
            branch: tuple(branch_rows(self.target, call, branch).tolist()) for branch in self._branches()
        }
        self._count_tokens(call)
        if self.mask is not None and self._space != (call.batch, call.latent):
            self._space = (call.batch, call.latent)
            self._set_masks(self.mask, call)
        rows = (call.batch if samples or branches else 1, branches)
        changed = rows != self._rows or any(self._moves(term, call.done) for term in self.terms)
        self._rows, self._done = rows, call.done
        if changed:
            self.refresh()

    def _count_tokens(self, call: DenoiserCall) -> None:
        """Tell the hooks where text and image tokens are mixed how many are the image's. Raises MatchError."""
        for edited in self.sites:
            for hook in edited.hooks:
                if hook.point.count is None:
                    continue
                hook.tokens = call.count(hook.point.count)
                if hook.point.image == "last" and call.ragged():
                    # Shorter texts end in padding, which some denoisers move behind the image.
                    message = (
                        f"the texts of this batch have different lengths, so {edited.terms[0].direction.layer}'s image tokens "
                        "cannot be told from the text's: generate one prompt at a time. Nothing was changed"
                    )
                    raise MatchError(message)

    def _moves(self, term: EditTerm, done: float) -> bool:
        """Whether a term's scale may be another at `done` than it was at the last call."""
        within = done in term.window
        return within != (self._done in term.window) or (within and callable(term.scale) and done != self._done)

    def _set_masks(self, rows: Tensor, call: DenoiserCall) -> None:
        """Give every hook the mask for a batch of this size. Raises MatchError."""
        if len(rows) > 1:
            if call.batch % len(rows):
                message = f"there are {len(rows)} masks, one per sample, and the batch is {call.batch}: give as many as the pipeline makes images"
                raise MatchError(message)
            rows = rows.repeat(call.batch // len(rows), 1, 1)
        made = Mask(rows, call.batch, call.latent)
        for edited in self.sites:
            for hook in edited.hooks:
                hook.mask = made


def merged_matches(matches: Mapping[str, str]) -> str:
    """Say how a term matches the denoisers: in a word where all agree, else one for each."""
    found = list(matches.values())
    return found[0] if len(set(found)) <= 1 else ", ".join(f"{name} {text}" for name, text in matches.items())
