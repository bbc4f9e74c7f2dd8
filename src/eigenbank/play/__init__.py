"""The playground: a web page with sliders beside an image.

    from eigenbank.play import launch

    launch("eigenbank/avatars-64")

Only `page.py` and `server.py` know Gradio; `playground.py` is what the page can do, `request.py` what it can ask for, and
`model.py` a pipeline at work. Importing this package imports neither Gradio nor torch.
"""

import importlib.util
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenbank.schemas.errors import EigenbankError

if TYPE_CHECKING:
    from eigenbank.schemas.drawing import Drawing


class PlayError(EigenbankError):
    """The playground cannot be served."""


def launch(
    model: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    drawing: "Drawing | None" = None,
    host: str | None = None,
    port: int | None = None,
    wait: bool = True,
    ready: Callable[[str], None] = print,
) -> Any:
    """Serve the playground on this machine until interrupted; with `wait=False`, until you close what it returns.

    `ready` is called with the page's address.

    The page offers every model of the catalog whose checkpoint is on this machine. It opens with `model`, an id or a
    checkpoint's folder, whose pipeline comes from `checkpoint`, a folder, file or id, if that is given. `drawing` is how to open the pipelines, and
    what the page starts with. `host` and `port` default to
    `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`, which a Gradio Space sets, else to 127.0.0.1 and the first free port
    from 7860.

    Raises PlayError where Gradio is not installed, no model can be sampled from, or the port is taken; UnknownNameError
    with near matches and SourceError as `find_checkpoint` does.
    """
    if importlib.util.find_spec("gradio") is None:
        message = "the playground needs Gradio: pip install 'eigenbank[play]'"
        raise PlayError(message)
    from eigenbank.api import find_checkpoint, local_pipelines

    models = local_pipelines()
    first = next(iter(models), None)
    if model is not None:
        first, folder = find_checkpoint(model, checkpoint, variant=None if drawing is None else drawing.variant)
        models = {first: folder, **models}
        if checkpoint is not None:
            models[first] = folder
    if first is None:
        message = "no model of the catalog has its checkpoint on this machine: name a model or a checkpoint's folder"
        raise PlayError(message)
    if port is not None:
        _check_free(host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", port)
    # Leaves a core to the server and the browser. OpenMP reads it when torch is imported.
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) - 1)))
    import torch

    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    from eigenbank.play.server import serve

    return serve(models, first, drawing=drawing, host=host, port=port, wait=wait, ready=ready)


def _check_free(host: str, port: int) -> None:
    """Raise PlayError where the port cannot be used, before anything large is loaded."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        message = f"the playground cannot listen on {host}:{port} ({error.strerror or error}): choose another `port=` or `host=`"
        raise PlayError(message) from error
