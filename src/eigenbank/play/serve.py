"""Serving the page: on this machine only unless told otherwise, no share link, nothing fetched from elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    root_path: str | None = None,
    open_browser: bool = False,
    wait: bool = True,
) -> Any:
    """Serve the playground until interrupted; with `wait` False, return at once, with Gradio's Blocks, to be closed.

    `host` and `port` are those that `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` name, as on a Gradio Space, else
    127.0.0.1 and the first free port from 7860.
    """
    # Read by Gradio when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from eigenbank.loaders.photo import MAX_BYTES
    from eigenbank.play.app import page
    from eigenbank.play.layout import CSS, SCRIPT, theme
    from eigenbank.play.policy import POLICY

    blocks = page(Playground(models, device), first)
    blocks.queue(max_size=QUEUE, api_open=False, status_update_rate="auto")
    blocks.launch(
        server_name=host, server_port=port, share=False, inbrowser=open_browser, prevent_thread_lock=not wait, quiet=not wait,
        show_error=False, max_file_size=MAX_BYTES, state_session_capacity=SESSIONS, enable_monitoring=False, ssr_mode=False,
        pwa=False, mcp_server=False, run_history=False, footer_links=[], theme=theme(), css=CSS, js=SCRIPT,
        app_kwargs={"middleware": POLICY, "docs_url": None, "redoc_url": None}, root_path=root_path,
    )  # fmt: skip
    return blocks
