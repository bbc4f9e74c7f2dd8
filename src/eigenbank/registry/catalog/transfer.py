"""A catalog as a file of JSON lines: one that says what follows, one per checkpoint, a last one that says it is whole."""

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import lines
from eigenbank.registry.catalog.content import CheckpointData
from eigenbank.schemas.common import MAX_MANIFEST_BYTES, Model
from eigenbank.schemas.errors import CatalogError, first_problem

M = TypeVar("M", bound=Model)
FORMAT = 4
"""The first that is read: those before it are older than the first release."""
_MOST_HEAD = 10_000
_MOST_LINE = 4 * MAX_MANIFEST_BYTES


class _Head(BaseModel):
    """What every version begins with; the fields only where the version is ours."""

    format: Literal["eigenbank-catalog"]
    version: int
    fields: Any = None


class _End(Model):
    end: Literal[True]
    checkpoints: int
    directions: int
    labels: int
    composites: int = 0
    shipped: tuple[str, ...] = ()


class Counts(NamedTuple):
    """How much there is, or was moved. `labels`: of directions and composites."""

    checkpoints: int = 0
    directions: int = 0
    labels: int = 0
    composites: int = 0

    def with_(self, entry: CheckpointData) -> "Counts":
        """The same with one more entry."""
        checkpoints, directions, labels, composites = self
        if entry.set is not None:
            directions += len(entry.set.directions)
            composites += len(entry.set.composites)
            labels += sum(len(record.labels) for record in entry.set.sliders)
        return Counts(checkpoints + 1, directions, labels, composites)

    def __str__(self) -> str:
        made = f", {self.composites} composites" if self.composites else ""
        return f"{self.checkpoints} models, {self.directions} directions{made}, {self.labels} labels"


def export_lines(entries: Iterable[CheckpointData], shipped: list[str]) -> Iterator[str]:
    """Yield the lines of an export, without their ends."""
    yield json.dumps({"format": "eigenbank-catalog", "version": FORMAT, "fields": lines.FIELDS})
    total = Counts()
    for entry in entries:
        total = total.with_(entry)
        yield json.dumps(lines.document(entry), ensure_ascii=False, separators=(",", ":"))
    yield json.dumps({"end": True, **total._asdict(), "shipped": shipped})


def write_file(path: Path, written: Iterable[str]) -> None:
    """Write lines to a new file, which appears whole. Raises CatalogError where it exists or cannot be written."""
    if path.exists():
        message = f"{path} exists: nothing was written. Choose another name, or remove it first."
        raise CatalogError(message)
    work = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            with work.open("w", encoding="utf-8", newline="\n") as file:
                for line in written:
                    file.write(line)
                    file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            work.rename(path)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}. Nothing was left behind."
        raise CatalogError(message) from error


def _wrong(path: Path, number: int, problem: str) -> CatalogError:
    message = f"{path}, line {number}: {problem}. Nothing was imported."
    return CatalogError(message)


def read_file(path: Path, progress: Progress = no_progress) -> Iterator[CheckpointData | list[str]]:
    """Yield what an export holds, and at its end the digests of the shipped sets it knew. Every line is validated.

    Raises CatalogError for what is no export, one cut short, or one of a newer format.
    """
    total = Counts()
    ended = False
    number = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while line := file.readline(_MOST_LINE if number else _MOST_HEAD):
                number += 1
                if ended:
                    raise _wrong(path, number, "there is more after the end")
                if number == 1:
                    _check_head(path, line)
                elif line.startswith(b'{"end"'):
                    end = _parse(path, number, _End, line)
                    promised = Counts(end.checkpoints, end.directions, end.labels, end.composites)
                    if promised != total:
                        raise _wrong(path, number, f"the end says {promised}, there were {total}")
                    ended = True
                    yield list(end.shipped)
                else:
                    try:
                        entry = lines.entry(_parse(path, number, lines.line(), line))
                    except IndexError:
                        problem = "a label or quality names a protocol that the line does not have"
                        raise _wrong(path, number, problem) from None
                    total = total.with_(entry)
                    yield entry
                    progress("kB", file.tell() // 1000, size // 1000)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}. Nothing was imported."
        raise CatalogError(message) from error
    if not number:
        message = (
            f"{path} is empty, 0 bytes, where a catalog's export was expected. Nothing was imported. Check the path."
        )
        raise CatalogError(message)
    if not ended:
        raise _wrong(path, number, "the file ends here, before its last line: it is cut short, export it again")


def _check_head(path: Path, line: bytes) -> None:
    expected = 'expected a catalog\'s export, which begins with {"format": "eigenbank-catalog", …}'
    try:
        head = _Head.model_validate_json(line)
    except ValidationError:
        raise _wrong(path, 1, f"{expected}, found {line[:40]!r}") from None
    if head.version > FORMAT:
        problem = f"the export is of version {head.version}, this eigenbank reads up to {FORMAT}: update eigenbank"
        raise _wrong(path, 1, problem)
    if head.version < FORMAT:
        problem = f"the export is of version {head.version}, older than the first release: export the catalog again"
        raise _wrong(path, 1, problem)
    if head.fields != {name: list(fields) for name, fields in lines.FIELDS.items()}:
        raise _wrong(path, 1, f"the fields it names are not those of version {FORMAT}: export the catalog again")


def _parse(path: Path, number: int, model: type[M], line: bytes) -> M:
    try:
        return model.model_validate_json(line, strict=True)
    except ValidationError as error:
        raise _wrong(path, number, first_problem(error, "the line", lines.named)) from None
