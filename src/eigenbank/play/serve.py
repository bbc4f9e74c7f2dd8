"""Serving the page: on this machine only unless told otherwise, no share link, nothing fetched from elsewhere."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eigenbank.play import PlayError
from eigenbank.play.playground import Playground

QUEUE = 64
"""Requests that may wait; more are refused with a word."""
SESSIONS = 64
"""Tabs whose state is kept; of more, the least lately used have to reload."""


def serve(
    models: Mapping[str, Path],
    first: str,
    *,
    device: str = "cpu",
    host: str | None = None,
    port: int | None = None,
    open_browser: bool = False,
    wait: bool = True,
    ready: Callable[[str], None] = print,
) -> Any:
    """Serve the playground as `launch` says. Returns Gradio's Blocks. Raises PlayError where it cannot listen."""
    # Read by Gradio when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from eigenbank.loaders.photo import MAX_BYTES
    from eigenbank.play.app import page
    from eigenbank.play.layout import CSS, SCRIPT, theme
    from eigenbank.play.policy import DOOR

    blocks = page(Playground(models, device), first)
    blocks.queue(max_size=QUEUE, api_open=False)
    try:
        blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=open_browser, prevent_thread_lock=True, quiet=True,
            show_error=False, max_file_size=MAX_BYTES, state_session_capacity=SESSIONS, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, run_history=False, footer_links=[], theme=theme(), css=CSS,
            js=SCRIPT, app_kwargs={"middleware": DOOR, "docs_url": None, "redoc_url": None, "openapi_url": None},
            # Without its check whether it reaches itself: that goes through proxies, gives up after three seconds, and then
            # tells people to make a share link.
            _frontend=False,
        )  # fmt: skip
    except OSError as error:
        where = f"{host or os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1')}:{port or 'any of 100 ports'}"
        message = f"the playground cannot listen on {where} ({error}): choose another --port or --host"
        raise PlayError(message) from error
    ready(str(blocks.local_url))
    if wait:
        blocks.block_thread()
    return blocks
