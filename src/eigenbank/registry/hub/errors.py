"""What the Hub's client raises, in words: one map, used around every call. No URL and no token gets into a message."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from eigenbank.schemas.errors import ConflictError, EigenbankError, HubError, OfflineError, UnreachableError

_FAILING = 500


def offline() -> bool:
    """Whether the Hub may not be asked: `HF_HUB_OFFLINE=1`, looked up now, not when the client was imported."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def check_online(what: str, outcome: str) -> None:
    """Raise OfflineError if the Hub may not be asked."""
    if offline():
        message = (
            f"{what} needs the Hub, and offline mode is on (HF_HUB_OFFLINE or --offline): {outcome}. Switch it off"
        )
        raise OfflineError(message)


@contextmanager
def hub_errors(doing: str, outcome: str) -> Iterator[None]:
    """Turn what the client raises into a HubError: `doing` says what was tried, `outcome` what became of the data."""
    try:
        yield
    except EigenbankError:
        raise
    except Exception as error:
        found = explain(error)
        if found is None:
            raise
        kind, reason, advice = found
        message = f"{doing} failed: {reason}. {outcome[:1].upper()}{outcome[1:]}. {advice}"
        raise kind(message) from error


def explain(error: BaseException) -> tuple[type[HubError], str, str] | None:
    """What an exception of the client means: the error to raise, the reason, what to do. None: not the client's."""
    from huggingface_hub import errors as hf

    later = "Try again later"
    if isinstance(error, hf.OfflineModeIsEnabled):
        return OfflineError, "offline mode is on (HF_HUB_OFFLINE)", "Switch it off"
    if isinstance(error, hf.GatedRepoError):
        return HubError, "the repository is gated", "Ask for access on its page on the Hub, then log in: hf auth login"
    if isinstance(error, hf.RepositoryNotFoundError):
        reason = "the Hub has no such repository, or this login may not see it"
        return HubError, reason, "Check the name; for a private one log in: hf auth login"
    if isinstance(error, hf.RevisionNotFoundError):
        return HubError, "the repository has no such revision", "Check the branch, tag or commit"
    if isinstance(error, hf.RemoteEntryNotFoundError):
        return HubError, "the repository lacks a file it should have", "Tell its owner, or use another one"
    if isinstance(error, hf.LocalEntryNotFoundError):
        inner = explain(error.__cause__) if error.__cause__ is not None else None
        return inner or (UnreachableError, "the Hub cannot be reached", "Check the network, then try again")
    if isinstance(error, hf.HfHubHTTPError):
        return _status(error.response.status_code)
    if isinstance(error, hf.HFValidationError):
        return HubError, "that is no repository id, which is ORG/NAME", "Check the name"
    if isinstance(error, transport_errors()):
        reason = f"the connection to the Hub failed ({type(error).__name__})"
        return UnreachableError, reason, "Check the network, then run it again"
    if isinstance(error, hf.FileMetadataError):
        return HubError, "what answers is not a Hub", "Check HF_ENDPOINT and the proxy settings"
    if isinstance(error, (RuntimeError, OSError)) and error.__cause__ is not None:
        # The client closes, or diffusers falls back to its cache, after something else went wrong.
        inner = explain(error.__cause__)
        if inner is not None:
            return inner
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return UnreachableError, "the Hub's answer was garbled", "Run it again"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return UnreachableError, "a file arrived with another size than was announced", "Run it again"
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return HubError, f"{error.strerror}{where}", "Make room or check the permissions, then run it again"
    if isinstance(error, (AttributeError, LookupError, TypeError, ValueError)) and _from_client(error):
        return UnreachableError, "the Hub's answer was not of the form the client expects", later
    return None


def transport_errors() -> tuple[type[BaseException], ...]:
    """The exceptions of the HTTP library the client is built on: httpx2 since huggingface_hub 2, httpx before."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__mro__[1]
    return (base, ConnectionError, TimeoutError)


def _from_client(error: BaseException) -> bool:
    """Whether an exception came out of huggingface_hub: then an answer is at fault, else it is a bug of ours."""
    modules = []
    at = error.__traceback__
    while at is not None:
        modules.append(str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        at = at.tb_next
    return "huggingface_hub" in modules and modules[-1] != "eigenbank"


def _status(status: int) -> tuple[type[HubError], str, str]:
    if status == 401:
        return HubError, "the Hub does not accept this login (401)", "Log in: hf auth login"
    if status == 403:
        return HubError, "this login may not do that (403)", "Use a token with write permission for that name"
    if status == 412:
        return ConflictError, "somebody else pushed meanwhile (412)", "Look at what they pushed, then run it again"
    if status == 429:
        return UnreachableError, "the Hub was asked too often (429)", "Wait some minutes, then run it again"
    if status >= _FAILING:
        return UnreachableError, f"the Hub is failing (status {status})", "Run it again later"
    return HubError, f"the Hub refused (status {status})", "Check the names, then run it again"
