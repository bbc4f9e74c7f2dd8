"""Read plan files and their locks, choose entries by glob, and write locks."""

import importlib
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eigenbank.registry.files import home, parse_as, read_bounded, replacing
from eigenbank.registry.sets.bundled import data_folder
from eigenbank.schemas.common import Model
from eigenbank.schemas.drawing import Drawing
from eigenbank.schemas.errors import PlanError, first_problem, in_words, unknown
from eigenbank.schemas.plan import Lock, MeasurementSettings, Plan, PlanEntry, PreviewSettings, Settings

MAX_BYTES = 2**20
_MAX_VALUES = 200_000
_INNER: dict[str, type[Model]] = {
    "defaults": Settings,
    "measurement": MeasurementSettings,
    "previews": PreviewSettings,
    "drawing": Drawing,
}
MAX_PROBLEMS = 20
"""How many problems of a file one message lists."""


def shipped_plan() -> Path:
    """Return the path of the plan that comes with eigenbank."""
    return data_folder() / "checkpoints.toml"


def lock_path(plan: Path) -> Path:
    """The path of a plan's lock: beside it, with the same name; for the shipped plan, in this user's home folder."""
    if plan == shipped_plan():
        return home() / "checkpoints.lock"
    return plan.with_name(f"{plan.name}.lock") if plan.suffix == ".lock" else plan.with_suffix(".lock")


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError, which lists every wrong entry with what is wrong about it."""
    found = _toml(path)
    plan, problems = Plan(), []
    try:
        plan = Plan.model_validate(found)
    except ValidationError as error:
        problems = [_problem(found, each) for each in error.errors(include_url=False)]
    problems += _duplicates("id", _ids(found), "Give each its own id; repo says where it is")
    if not problems:
        names = [entry.directions_name for entry in plan.checkpoint]
        problems = _duplicates("repository to publish in", names, "Set publish_as")
        problems += _invalid_repositories(plan.checkpoint)
    if not problems:
        return plan
    more = len(problems) - MAX_PROBLEMS
    lines = [*problems[:MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
    message = f"{path} is not a valid plan: nothing was done. Fix it:\n  " + "\n  ".join(lines)
    raise PlanError(message)


def choose(plan: Plan, only: Sequence[str]) -> list[PlanEntry]:
    """The entries whose id matches any of the globs; all, without globs. Raises UnknownNameError for one without a match."""
    for glob in only:
        if not any(fnmatchcase(entry.id, glob) for entry in plan.checkpoint):
            raise unknown(kind="checkpoint in the plan", name=glob, known=[entry.id for entry in plan.checkpoint])
    return [entry for entry in plan.checkpoint if not only or any(fnmatchcase(entry.id, glob) for glob in only)]


def read_lock(path: Path) -> Lock | None:
    """Read a lock file; None if it does not exist. Raises PlanError for a damaged one."""
    if not path.exists():
        return None
    try:
        return parse_as(Lock, _bytes(path), values=_MAX_VALUES)
    except ValueError as error:
        message = f"{path} is not a plan's lock file: {first_problem(error)}. Create it again: eigenbank plan --check"
        raise PlanError(message) from error


def write_lock(path: Path, lock: Lock) -> None:
    """Write a lock file atomically. Raises PlanError."""
    text = json.dumps(lock.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as work:
            work.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): the lock is unchanged. Name another with `lock=`"
        raise PlanError(message) from error


def pinned(entry: PlanEntry, lock: Lock | None) -> str | None:
    """Return the commit to build an entry at; None where only the Hub can tell."""
    if entry.revision is not None and len(entry.revision) == 40 and set(entry.revision) <= set("0123456789abcdef"):
        return entry.revision
    pin = lock.checkpoints.get(entry.id) if lock is not None else None
    return pin.revision if pin and pin.repo == entry.source and pin.asked == entry.revision else None


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror or error}): expected a plan, a TOML file. Nothing was done"
        raise PlanError(message) from error


def _toml(path: Path) -> dict[str, Any]:
    # In the standard library since Python 3.11.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        text = _bytes(path).decode("utf-8")
        if sum(map(text.count, "[{,=.")) > _MAX_VALUES:
            message = f"it holds more than {_MAX_VALUES:,} values"
            raise ValueError(message)
        found: dict[str, Any] = toml.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{path} is not TOML ({error}): nothing was done"
        raise PlanError(message) from error
    return found


def _problem(found: dict[str, Any], error: Any) -> str:
    """Word one of pydantic's findings, with the number and id of the entry it is about."""
    loc = list(error["loc"])
    where = "the plan"
    if len(loc) > 1 and loc[0] == "checkpoint" and isinstance(loc[1], int):
        entry = found["checkpoint"][loc[1]]
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"checkpoint {loc[1] + 1}" + (f" ({str(name)[:200]})" if name is not None else "")
        loc = loc[2:]
    key = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        schema: type[Model] = Plan if where == "the plan" else PlanEntry
        for part in loc[:-1]:
            schema = _INNER.get(str(part), schema)
        return f"{where}: {unknown(kind='key', name=str(loc[-1]), known=schema.model_fields)}"
    message = "is missing" if error["type"] == "missing" else in_words(error)
    value = error.get("input")
    shown = (
        f", found {str(value)[:100]!r}" if isinstance(value, (str, int, float)) and error["type"] != "missing" else ""
    )
    return f"{where}: {key}: {message}{shown}" if key else f"{where}: {message}{shown}"


def _ids(found: dict[str, Any]) -> list[str | None]:
    """Return the ids in a plan that is not valid, None for entries without one."""
    entries = found.get("checkpoint")
    rows = entries if isinstance(entries, list) else []
    return [entry["id"] if isinstance(entry, dict) and isinstance(entry.get("id"), str) else None for entry in rows]


def _duplicates(what: str, names: Sequence[str | None], remedy: str) -> list[str]:
    """List a problem for each entry that shares a name with an earlier one; `what` the name is of."""
    first: dict[str, int] = {}
    return [
        f"checkpoint {number + 1}: has the {what} {name[:200]} of checkpoint {first[name] + 1}. {remedy}"
        for number, name in enumerate(names)
        if name is not None and first.setdefault(name, number) != number
    ]


def _invalid_repositories(entries: Sequence[PlanEntry]) -> list[str]:
    """List a problem for each entry whose directions' repository would get a name that the Hub does not allow."""
    return [
        f"checkpoint {number + 1} ({entry.id}): {entry.directions_name!r} is not a valid repository name: the Hub allows at most 96 "
        "characters, no '--' and no '..'. Set publish_as"
        for number, entry in enumerate(entries)
        if len(entry.directions_name) > 96 or "--" in entry.directions_name or ".." in entry.directions_name
    ]
