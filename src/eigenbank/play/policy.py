"""What goes through the door: of Gradio's server only what the page uses, within bounds; and what a browser may do with the page.

Gradio answers more than its page asks: it fetches addresses on behalf of whoever names one, takes bodies of any size, and has
routes for other kinds of apps. None of that is needed here.
"""

import json
import math
import re
from typing import Any

from starlette.middleware import Middleware

from eigenbank.loaders.photo import MAX_BYTES

CONTENT = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page starts itself with scripts of its own inside the page, and compiles templates.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
MAX_SAID = 2**20
"""Bytes of a request that is no upload."""
ENVELOPE = 2**16
"""Bytes of an upload besides its file."""
_PAGE = re.compile(r"/(config/?|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static|svelte)/.*)?")
_API = re.compile(
    r"/gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/(join|data)|cancel|reset/?|upload|upload_progress"
    r"|heartbeat/[^/]*|file=(?!https?:)[^\0]*)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Refused(Exception):  # noqa: N818
    """A request that nothing on the page sends: a status, and a word."""

    def __init__(self, status: int, word: str) -> None:
        super().__init__(word)
        self.status = status
        self.word = word


class _Door:
    """Lets through what the page asks for, and adds the headers to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            receive = await _checked(scope, receive)
        except Refused as refused:
            body = json.dumps({"detail": refused.word}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await named({"type": "http.response.start", "status": refused.status, "headers": headers})
            await named({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, named)


async def _checked(scope: Any, receive: Any) -> Any:
    """What the app reads a request's body with, which has been looked at. Raises Refused."""
    path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
    if not (_PAGE.fullmatch(path) or _API.fullmatch(path)):
        raise Refused(404, "there is nothing of this name here")
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return receive
    given = dict(scope["headers"]).get(b"content-length", b"")
    if not given.isdigit():
        raise Refused(411, "the request does not say how long it is")
    if path.endswith("/upload"):
        if int(given) > MAX_BYTES + ENVELOPE:
            raise Refused(413, f"a file may have {MAX_BYTES // 2**20} MiB: nothing was kept. Give a smaller one")
        return receive
    if int(given) > MAX_SAID:
        raise Refused(413, f"a request may have {MAX_SAID // 2**20} MiB: nothing was done")
    body = await _read(receive)
    try:
        said = json.loads(body, parse_constant=_finite, parse_float=_finite) if body else None
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON: nothing was done") from error
    if _fetches(said):
        raise Refused(400, "files are uploaded here, not fetched from addresses: nothing was done")

    async def again() -> Any:
        nonlocal body
        if body is None:
            return await receive()
        message = {"type": "http.request", "body": body, "more_body": False}
        body = None
        return message

    return again


async def _read(receive: Any) -> bytes | None:
    """The whole body, which is no longer than the server was told."""
    parts = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request broke off")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _finite(text: str) -> float:
    """A number of JSON, which has no others. Raises ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _fetches(said: Any) -> bool:
    """Whether anything in a request names a file by an address, which Gradio would fetch."""
    left = [said]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.values()
            path = each.get("path")
            if isinstance(path, str) and _ADDRESS.match(path):
                return True
        elif isinstance(each, list):
            left += each
    return False


DOOR = [Middleware(_Door)]
