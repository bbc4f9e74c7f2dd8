"""Holding a plan against the Hub: is every line true, can every checkpoint be read, and which commit is it?"""

import datetime
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eigenbank.progress import Progress, unwatched
from eigenbank.registry.hub.errors import check_online, hub_errors
from eigenbank.registry.hub.remote import api
from eigenbank.schemas.errors import EigenbankError, UnreachableError
from eigenbank.schemas.plan import Entry, Lock, Pin

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from eigenbank.builders.checkpoints.source import WeightSource

PARALLEL = 8
ATTEMPTS = 6
_TODAY: dict[Any, str] = {
    ("Transformer2DModel", "ada_norm_zero"): "DiTTransformer2DModel",
    ("Transformer2DModel", "ada_norm_single"): "PixArtTransformer2DModel",
}
"""What diffusers calls today what a config.json names by a former class and its kind of norm."""


@dataclass(frozen=True)
class Checked:
    """What the Hub says of a plan's entry. `revision` None: no commit could be found; `problems`: what is not as the plan
    says, or cannot be read; `notes`: what is worth knowing; `gone`: there is no such repository or revision.
    """

    entry: Entry
    revision: str | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    gone: bool = False


def check(entries: Sequence[Entry], progress: Progress = unwatched) -> list[Checked]:
    """Ask the Hub about every entry; no weights are read, only headers. One that fails does not stop the others.

    Raises OfflineError.
    """
    check_online("checking a plan", "nothing was checked")
    found = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        for number, one in enumerate(pool.map(check_entry, entries)):
            found.append(one)
            progress(one.entry.id, number + 1, len(entries))
    return found


def check_entry(entry: Entry) -> Checked:
    """What the Hub says of one entry. Raises nothing the Hub is to blame for."""
    try:
        info = _info(entry)
    except EigenbankError as error:
        return Checked(entry, problems=(str(error),), gone=not isinstance(error, UnreachableError))
    problems, notes = _facts(entry, info)
    revision = str(info.sha)
    names = [sibling.rfilename for sibling in info.siblings or []]
    if not any(name.endswith(".safetensors") for name in names):
        notes.append("its weights are pickles (.bin), which a build would fetch whole: they were not looked into")
    else:
        try:
            problems += _inside(entry, revision)
        except EigenbankError as error:
            problems.append(str(error))
    return Checked(entry, revision, tuple(problems), tuple(notes))


def locked(checked: Sequence[Checked], before: Lock | None) -> Lock:
    """The lock that these findings make of the one before: what was found is pinned, what is gone is not any more, and
    what could not be asked, or was not, stays as it was.
    """
    pins = dict(before.checkpoints) if before is not None else {}
    for one in checked:
        if one.revision is not None:
            pins[one.entry.id] = Pin(repo=one.entry.source, revision=one.revision, asked=one.entry.revision)
        elif one.gone:
            pins.pop(one.entry.id, None)
    return Lock(checked=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0), checkpoints=pins)


def _info(entry: Entry) -> "ModelInfo":
    """What the Hub says of the repository. Raises HubError."""
    at = f"{entry.source}{f'@{entry.revision}' if entry.revision else ''}"
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(4.0, 0.2 * 2**attempt))
        try:
            with hub_errors(f"looking at {at} on the Hub", "It was not checked"):
                return api().model_info(entry.source, revision=entry.revision)
        except UnreachableError:
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError


def _facts(entry: Entry, info: "ModelInfo") -> tuple[list[str], list[str]]:
    """What of the repository itself is not as the entry says, and what is worth knowing."""
    problems, notes = [], []
    if info.id != entry.source:
        problems.append(f"the repository {entry.source} was renamed to {info.id}: write repo = {info.id!r}")
    gated = bool(info.gated)
    if entry.gated is not None and gated != entry.gated:
        problems.append(f"the plan says gated = {str(entry.gated).lower()}, the Hub {str(gated).lower()}")
    card: Any = info.card_data
    stated = [str(value) for value in (getattr(card, "license", None), getattr(card, "license_name", None)) if value]
    if entry.licence is not None and entry.licence not in stated:
        problems.append(f"the plan says licence = {entry.licence!r}, its card {' / '.join(stated) or 'none'}")
    if entry.licence is None and stated:
        notes.append(f"its card says licence {' / '.join(stated)}")
    return problems, notes


def _inside(entry: Entry, revision: str) -> list[str]:
    """What of the checkpoint's files is not as the entry says. Raises SourceError where they cannot be read."""
    from eigenbank.builders.checkpoints.hub import open_hub

    source: WeightSource = open_hub(entry.source, revision=revision, variant=entry.variant, subfolder=entry.subfolder)
    found = source.config.get("_class_name")
    found = _TODAY.get((found, source.config.get("norm_type")), found)
    if entry.denoiser is not None and found != entry.denoiser:
        return [f"the plan says denoiser = {entry.denoiser!r}, its config.json {found!r}"]
    return []
