"""What an edit adds on one denoiser: its terms, the hooks that add them at their sites, and which of them a run has met."""

import contextlib
import itertools
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eigenbank.diffusers_compat import hook_registry, running_pipeline
from eigenbank.loaders.denoiser_calls import (
    DenoiserCall,
    DenoiserCallWatcher,
    SingleBranch,
    branch_rows,
    guidance_of,
    takes_text,
)
from eigenbank.loaders.fuse import FusedBias
from eigenbank.loaders.hooks import Addition, TokenCounter, attach, detach, put_on
from eigenbank.loaders.mask import Mask
from eigenbank.loaders.schedule import Scale, scale_at
from eigenbank.loaders.target import Target, denoiser_components, device_and_dtype, unwrapped
from eigenbank.registry.sets.direction_set import Direction
from eigenbank.schemas import Layer, TokenCount
from eigenbank.schemas.errors import BranchError, MatchError, SteerError
from eigenbank.schemas.recipe import Site, Window

_numbers = itertools.count()

FASTER_CACHE = "faster_cache_denoiser"
"""The hook of diffusers on a denoiser that changes its batch behind an edit's back."""


@dataclass
class EditTerm:
    """One direction of an edit: where it is added, and its scale now.

    `vector` is what a scale of 1 adds, in the wanted polarity and counted in token lengths. `branch` is the one branch of guidance it acts on, None for both. `match` says how it matches the pipeline's
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


class UnmetWarning(UserWarning):
    """A direction did nothing: no step of the run was in its window, or in its branch of guidance."""


class RunRecord:
    """Which terms of an edit met a step of the run going on, over all denoisers; those that met none are told of, once."""

    def __init__(self, terms: Sequence[EditTerm]) -> None:
        self.terms = list(terms)
        self.done: dict[str, float] = {}
        self.met: set[int] = set()
        self.branches: set[SingleBranch] = set()
        self._begun = self._warned = False

    def step(
        self,
        denoiser: str,
        done: float,
        branches: Mapping[SingleBranch | None, Sequence[float]],
        terms: Sequence[EditTerm],
        *,
        of_pipeline: bool,
    ) -> None:
        """Note a call of a denoiser, on which `terms` act. A step before its last one begins another run."""
        if of_pipeline and done < self.done.get(denoiser, 0.0):
            self.end()
        self.done[denoiser], self._begun = done, True
        self.branches |= {branch for branch, rows in branches.items() if branch is not None and any(rows)}
        for term in terms:
            if done in term.window and (term.branch is None or any(branches.get(term.branch, ()))):
                self.met.add(id(term))

    def end(self) -> None:
        """Forget the run. Warns UnmetWarning of what it left out."""
        unmet = [term for term in self.terms if id(term) not in self.met] if self._begun else []
        self.forget()
        if unmet and not self._warned:
            self._warned = True
            said = [
                f"{term.key!r} ({term.window.start:g} to {term.window.end:g} of the run"
                f"{'' if term.branch is None else f', branch {term.branch}'})"
                for term in unmet
            ]
            text = (
                f"{', '.join(dict.fromkeys(said))} did nothing: no step of this run was there. Take more steps, a wider window or "
                "another branch; a run that does only a part of the schedule, as img2img does, is counted from 0 to 1 itself"
            )
            warnings.warn(text, UnmetWarning, stacklevel=4)

    def forget(self) -> None:
        """Forget the run without a word."""
        self.done, self._begun = {}, False
        self.met.clear()
        self.branches.clear()


@dataclass
class _EditedSite:
    """A site of one layer, the terms added there, and what adds them: additions on some modules, or a fused bias."""

    terms: list[EditTerm]
    additions: list[Addition] = field(default_factory=list)
    bias: FusedBias | None = None

    def set(self, delta: Tensor) -> None:
        for addition in self.additions:
            addition.set(delta)
        if self.bias is not None:
            self.bias.set(delta[0])


class ActiveEdit:
    """What an edit adds on the denoiser `name` of a target. `terms` are those that match it."""

    def __init__(
        self, target: Target, name: str, terms: Sequence[EditTerm], run: RunRecord, *, mask: Tensor | None, fuse: bool
    ) -> None:
        self.target = target
        self.denoiser = target.denoisers[name]
        self.name = name
        self.terms = list(terms)
        self.run = run
        self.mask = mask
        self.fuse = fuse
        self.factor = 1.0
        self.sites: list[_EditedSite] = []
        self._placed: list[tuple[str, nn.Module, Addition]] = []
        self._counters: dict[TokenCount, TokenCounter] = {}
        self._undo = contextlib.ExitStack()
        self._number = f"edit-{next(_numbers)}"
        self._thread: int | None = None
        # What the last call was: how far the run, its batch with the rows of each branch, and its spatial shape.
        self._done = 0.0
        self._rows: tuple[int, dict[SingleBranch | None, tuple[float, ...]]] = (1, {})
        self._space: tuple[int, tuple[int, ...]] = (0, ())

    def attach(self) -> None:
        """Put the hooks in place. Raises MatchError or SteerError; the caller removes what is there by then."""
        grouped: dict[tuple[int, str, Site], list[EditTerm]] = {}
        for term in self.terms:
            grouped.setdefault((id(term.direction.bank), term.direction.layer, term.site), []).append(term)
        for (_, name, site), terms in grouped.items():
            layer = terms[0].direction.bank.layers[name]
            edited = _EditedSite(terms)
            self.sites.append(edited)
            if self.fuse:
                edited.bias = FusedBias(self.target, self.denoiser, layer, layer.lengths[site].length)
                self._undo.callback(edited.bias.remove)
                edited.bias.attach()
            else:
                self._place(edited, layer, site)
        self._refuse_caches()
        self._refuse_shared()
        if not self.fuse:
            watcher = DenoiserCallWatcher(self.target, self.name, self._called, needed=self._needs_calls())
            self._undo.callback(watcher.remove)
            watcher.attach()
        self.refresh()

    def _place(self, edited: _EditedSite, layer: Layer, site: Site) -> None:
        """Place additions on the modules of a site. Raises SteerError for a mask where it cannot act."""
        point = self.target.hook_point(self.denoiser, layer, site)
        device, _ = device_and_dtype(self.denoiser)
        for path in point.modules:
            addition = Addition(point, layer.width)
            addition.delta = addition.delta.to(device)
            addition.counter = self._counter(point.count)
            module = self.target.module(self.denoiser, path)
            attach(module, addition, f"{self._number}/{len(self._placed)}")
            self._placed.append((path, module, addition))
            edited.additions.append(addition)
        if self.mask is not None and layer.kind == "temporal":
            message = f"{layer.name} attends over frames: a mask cannot act there. Leave its directions out of the masked edit"
            raise SteerError(message)

    def _counter(self, count: TokenCount | None) -> TokenCounter | None:
        """Return the counter for the sites that are counted in the same place, put there if there is none."""
        if count is not None and count not in self._counters:
            self._counters[count] = TokenCounter(count)
            self._undo.callback(put_on(self.target.module(self.denoiser, count.module), self._counters[count]))
        return None if count is None else self._counters[count]

    def _follow_modules(self) -> None:
        """Move additions to the modules that took the place of theirs, as adapters do when they are loaded or unloaded."""
        for number, (path, module, addition) in enumerate(self._placed):
            now = self.target.module(self.denoiser, path)
            if now is not module:
                detach(module, addition, f"{self._number}/{number}")
                attach(now, addition, f"{self._number}/{number}")
                self._placed[number] = (path, now, addition)

    def remove(self) -> None:
        """Take the hooks away and restore fused biases. Harmless when there are none."""
        self._undo.close()
        for number, (_, module, addition) in enumerate(self._placed):
            detach(module, addition, f"{self._number}/{number}")
        self._placed, self._counters, self.sites = [], {}, []

    def refresh(self) -> None:
        """Work out what every site adds, so that a call of the denoiser costs one addition per site."""
        scales = {id(term): term.at(self._done) * self.factor for term in self.terms}
        batch, branches = self._rows
        for edited in self.sites:
            here = [scales[id(term)] for term in edited.terms]
            rows = max([1, *(len(scale) for scale in here if scale.ndim)])
            matrix = torch.stack([scale.expand(rows) for scale in here], 1)
            if rows > 1 and batch > 1:
                matrix = matrix.repeat(batch // rows, 1)
            shares = [torch.tensor(branches.get(term.branch, (1.0,))) for term in edited.terms]
            # A call that is one branch of guidance as a whole needs no row for each sample.
            shares = [share[:1] if bool((share == share[0]).all()) else share for share in shares]
            matrix = matrix.expand(max(len(matrix), *map(len, shares)), -1)
            matrix = matrix * torch.stack([share.expand(len(matrix)) for share in shares], 1)
            edited.set(matrix @ torch.stack([term.vector for term in edited.terms]))

    def _needs_calls(self) -> bool:
        """Whether the edit depends on the step, the batch or the image's size, so that no call may be missed."""
        if self._counters or self._branches() or self._changing() or self.mask is not None:
            return True
        return any(term.at(0.0).ndim for term in self.terms)

    def _changing(self) -> bool:
        """Whether anything changes over the run."""
        return any(not term.constant for term in self.terms)

    def _branches(self) -> list[SingleBranch]:
        """The branches of guidance that some direction acts on alone."""
        return sorted({term.branch for term in self.terms if term.branch is not None})

    def _refuse_caches(self) -> None:
        """Raise SteerError where a cache of diffusers changes the batch that scales per sample or branch count on."""
        registry = hook_registry(self.denoiser)
        hook = None if registry is None else registry.hooks.get(FASTER_CACHE)
        if hook is None or getattr(hook, "is_guidance_distilled", False):
            return
        branches = self._branches()
        if branches or any(term.at(0.0).ndim for term in self.terms):
            message = (
                "FasterCache works out the unconditional branch without calling the denoiser: scales per sample and "
                f"branch={' and '.join(branches) or 'both'!r} cannot be carried out. Use one scale and branch='both', or "
                "disable_cache() first. Nothing was changed"
            )
            raise SteerError(message)

    def _check_alone(self) -> None:
        """Raise SteerError while another thread is in a run of this denoiser: what is set for one call would act on the other."""
        thread, before = threading.get_ident(), self._thread
        other = running_pipeline(before) if before not in (None, thread) else None
        if other is not None and self.denoiser in map(unwrapped, denoiser_components(other[0]).values()):
            message = (
                "another thread is drawing with this edited denoiser: the edit follows one run at a time. Draw one after the "
                "other, under a lock"
            )
            raise SteerError(message)
        self._thread = thread

    def _refuse_shared(self) -> None:
        """Raise BranchError where another part of the pipeline runs an edited layer, as Z-Image's ControlNet does.

        It does so before the denoiser is called, when nothing says yet which rows are of which branch.
        """
        edited = {id(module) for _, module, _ in self._placed} if self._branches() else set()
        for name, part in vars(self.target.owner).items() if edited else ():
            if name in self.target.wrappers or not isinstance(part, nn.Module):
                continue
            if any(id(module) in edited for module in part.modules()):
                message = (
                    f"the pipeline's {name} runs the edited layers of its {self.name} too, and does not say which of its rows are "
                    f"conditional: branch={self._branches()[0]!r} cannot be carried out, use branch='both'. Nothing was changed"
                )
                raise BranchError(message)

    def _called(self, call: DenoiserCall) -> None:
        """Before each call: set what it needs that the last one did not."""
        self._check_alone()
        self._follow_modules()
        self._refuse_caches()
        done = call.done if self._changing() else 0.0
        samples = {len(scale) for term in self.terms if (scale := term.at(done)).ndim}
        for size in samples:
            stacked = takes_text(self.denoiser) and self.target.guided() is not False
            if call.batch != size and (call.batch % size or not stacked):
                message = (
                    f"the edit has {size} scales, one per sample, and the batch is {call.batch}: "
                    "give as many scales as the pipeline makes images"
                )
                raise MatchError(message)
        branches = self._branch_rows(call)
        self._tell_additions(call)
        if self.mask is not None and self._space != (call.batch, call.latent):
            self._space = (call.batch, call.latent)
            self._set_masks(self.mask, call)
        self.run.step(self.name, done, branches, self.terms, of_pipeline=bool(call.local))
        rows = (call.batch if samples or branches else 1, branches)
        changed = rows != self._rows or any(self._moves(term, done) for term in self.terms)
        self._rows, self._done = rows, done
        if changed:
            self.refresh()

    def _branch_rows(self, call: DenoiserCall) -> dict[SingleBranch | None, tuple[float, ...]]:
        """Return the rows of each branch that some direction acts on alone. Raises SteerError where there is no such branch."""
        found: dict[SingleBranch | None, tuple[float, ...]] = {}
        for branch in self._branches():
            found[branch] = tuple(branch_rows(self.target, call, branch).tolist())
            # Guidance may end in mid-run, by a callback: what was asked for has been done by then.
            if branch == "uncond" and "uncond" not in self.run.branches and guidance_of(self.target, call) is False:
                message = "this run has no unconditional branch (no guidance): the edit would do nothing"
                raise SteerError(message)
        return found

    def _tell_additions(self, call: DenoiserCall) -> None:
        """Tell the additions how many samples there are. Raises MatchError where text and image cannot be told apart."""
        for counter in self._counters.values():
            counter.tokens = None
        for edited in self.sites:
            for addition in edited.additions:
                addition.samples = call.batch
                if addition.point.image == "all":
                    continue
                # Shorter texts end in padding, which some denoisers move behind the image.
                if addition.point.image == "last" and call.ragged():
                    why, do = "the texts of this batch have different lengths", "generate one prompt at a time"
                elif call.illustrated():
                    why, do = "pictures were given along with the prompt", "generate without them"
                else:
                    continue
                message = (
                    f"{why}, so {edited.terms[0].direction.layer}'s image tokens cannot be told from the text's: {do}. "
                    "Nothing was changed"
                )
                raise MatchError(message)

    def _moves(self, term: EditTerm, done: float) -> bool:
        """Whether a term's scale may be another at `done` than it was at the last call."""
        within = done in term.window
        return within != (self._done in term.window) or (within and callable(term.scale) and done != self._done)

    def _set_masks(self, rows: Tensor, call: DenoiserCall) -> None:
        """Give every addition the mask for a batch of this size. Raises MatchError."""
        if len(rows) > 1:
            if call.batch % len(rows):
                message = f"there are {len(rows)} masks, one per sample, and the batch is {call.batch}: give as many as the pipeline makes images"
                raise MatchError(message)
            rows = rows.repeat(call.batch // len(rows), 1, 1)
        made = Mask(rows, call.batch, call.latent)
        for _, _, addition in self._placed:
            addition.mask = made
