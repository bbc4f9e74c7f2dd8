"""`eigenbank play`: the playground."""

from pathlib import Path

import click

from eigenbank.cli import complete, interrupt
from eigenbank.cli.options import catalog_option
from eigenbank.cli.output import say
from eigenbank.cli.picture import checkpoint_option


@click.command(short_help="Move sliders and see the picture.")
@click.argument("model", required=False, shell_complete=complete.models)
@checkpoint_option
@click.option("--device", default="cpu", show_default=True, help="Where to draw: cpu, cuda, …")
@click.option(
    "--host", help="Address to listen on; 0.0.0.0 lets other machines in [env: GRADIO_SERVER_NAME; default: 127.0.0.1]."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to listen on [env: GRADIO_SERVER_PORT; default: the first free one from 7860].",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@catalog_option
def play(
    model: str | None,
    checkpoint: Path | None,
    device: str,
    host: str | None,
    port: int | None,
    open_browser: bool,
) -> None:
    """Open a page with a model's sliders beside its picture, until interrupted.

    MODEL is a model of the catalog, or a checkpoint's folder; the page offers the others too. It is served on this machine
    alone, without a password: whoever can reach --host can use it. Needs `pip install 'eigenbank[play]'`.

    \b
    Example:
      eigenbank play eigenbank/cartoon-faces-32 --open
    """
    from eigenbank.play import launch

    if checkpoint is not None and model is None:
        message = "--checkpoint is the checkpoint of MODEL: name it"
        raise click.UsageError(message)
    say("starting…")
    launch(
        model,
        checkpoint=checkpoint,
        device=device,
        host=host,
        port=port,
        open_browser=open_browser,
        ready=lambda url: say(f"the playground is on {url} (Ctrl-C stops it)"),
    )
    interrupt.awaited()
