"""The errors a user can cause or meet: what was expected and found, what happened to the data, what to do next."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eigenbank.schemas.printable import PRINTABLE, printable

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class EigenbankError(Exception):
    """Something went wrong that the user can understand and act on. The command line prints it and exits with 1.

    `problem` says what was expected, what was found, and where; `outcome` what happened to the data, such as "nothing was
    published"; `advice` what to do next. A caller adds what the raiser could not know: see `explaining`.
    """

    def __init__(self, problem: str, *, outcome: str = "", advice: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.outcome = outcome
        self.advice = advice

    def __str__(self) -> str:
        text = self.problem
        if self.outcome:
            ended = text.endswith((".", "?"))
            text += f" {self.outcome[0].upper()}{self.outcome[1:]}" if ended else f"; {self.outcome}"
        if self.advice:
            text += f" {self.advice}" if text.endswith((".", "?")) else f". {self.advice}"
        return printable(text)  # what was found may be a stranger's text


@contextmanager
def explaining(*, outcome: str = "", advice: str = "") -> Iterator[None]:
    """Add an outcome and advice to the errors raised inside, where they have none. A decorator of functions, too."""
    try:
        yield
    except EigenbankError as error:
        error.outcome = error.outcome or outcome
        error.advice = error.advice or advice
        raise


class SourceError(EigenbankError):
    """A checkpoint cannot be read: missing, damaged, of an unknown layout, or without self-attention."""


class UnknownNameError(EigenbankError):
    """A model, layer, recipe, direction or label of that name does not exist."""


class SetError(EigenbankError):
    """A direction set on disk is damaged, hostile or of another format."""


class CatalogError(EigenbankError):
    """The catalog cannot be opened, read or written."""


class SearchError(EigenbankError):
    """A search cannot be carried out as it was typed."""


class ReplaceError(CatalogError):
    """A set would replace one with labels, composites or previews that it lacks."""


class HubError(EigenbankError):
    """The Hub cannot be reached, refuses, or serves what it should not."""


class RefusedError(HubError):
    """A repository holds what is no sound direction set, and always will at that commit."""


class OfflineError(HubError):
    """Something is not on this machine, and offline mode is on."""


class UnreachableError(HubError):
    """The Hub does not answer, or answers that it is failing: trying later may help."""


class ConflictError(HubError):
    """Somebody else pushed to the repository meanwhile."""


class PlanError(EigenbankError):
    """A plan cannot be read, or not carried out as it is asked for."""


class MatchError(EigenbankError):
    """A direction does not belong to the pipeline it was to be applied to."""


class SteerError(EigenbankError):
    """An edit was asked for in a way that cannot be carried out."""


class BranchError(SteerError):
    """A pipeline does not say which rows are of which branch of guidance, so that an edit cannot act on one alone."""


class DrawingError(SteerError):
    """A pipeline cannot generate pictures as it was asked to: it lacks a prompt, reads none, starts from a picture …"""


class FuseError(SteerError):
    """An edit cannot be written into biases: of `what`, and `why`. `elsewhere`: at another site it could."""

    def __init__(self, what: str, why: str, *, elsewhere: bool = False) -> None:
        self.what, self.why, self.elsewhere = what, why, elsewhere
        more = "add it there, site='output', or " if elsewhere else ""
        super().__init__(f"{what} cannot be fused: {why}. Nothing was changed; {more}steer without fuse=True")


class ExportError(EigenbankError):
    """An edit cannot be expressed in the format asked for, or the file cannot be written."""


class GalleryError(EigenbankError):
    """A gallery cannot be written where it was asked for, or cannot be served."""


class OutputError(EigenbankError):
    """What a command found cannot be written to its standard output."""


class PhotoError(EigenbankError):
    """A photo cannot be read, or not by this pipeline."""


def first_problem(error: ValueError, whole: str = "the document") -> str:
    """Say what pydantic, or the parser before it, found wrong first, and where: `directions.0.rank: Field required`.

    `whole` names what was validated, for a problem with no field of its own.
    """
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return f"{whole}: {'Invalid JSON: ' if isinstance(error, json.JSONDecodeError) else ''}{error}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or whole
    return f"{where}: {in_words(first)}"


def in_words(found: "ErrorDetails") -> str:
    """Say what one of pydantic's findings is about, without the pattern of texts, which nobody can read."""
    if found["type"] == "string_pattern_mismatch" and found.get("ctx", {}).get("pattern") == PRINTABLE:
        return "it holds a control character, or one that is not shown"
    return found["msg"].removeprefix("Value error, ")


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Build the error for an unknown name, of which 800 characters are looked at, with the nearest known ones."""
    name, known = name[:800], list(known)
    # A prefix that all share, a model's id or `composite/`, says nothing about how near they are.
    asked = name.casefold()
    stems = [asked[: found.end()] for found in re.finditer("[/#]", asked)]
    shared = next((stem for stem in reversed(stems) if all(each.casefold().startswith(stem) for each in known)), "")
    folded = {other.casefold().removeprefix(shared): other for other in known}
    matches = difflib.get_close_matches(asked.removeprefix(shared), folded, n=3, cutoff=0.5)
    close = [folded[match] for match in matches]
    if close:
        tail = f"did you mean {' or '.join(repr(match) for match in close)}?"
    elif known:
        shown = ", ".join(sorted(known)[:8])
        tail = f"known: {shown}{', …' if len(known) > 8 else ''}."
    else:
        tail = "there is none yet."
    return UnknownNameError(f"no {kind} {name!r}: {tail}{' ' + hint if hint else ''}")
