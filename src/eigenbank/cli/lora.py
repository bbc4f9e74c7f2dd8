"""`eigenbank import-lora`: sliders that others trained, beside the set's own."""

import click

from eigenbank.cli import complete
from eigenbank.cli.output import emit, format_option, log


@click.command("import-lora")
@click.argument("source", metavar="FILE|REPO|ID")
@click.option(
    "--model", required=True, metavar="ID", shell_complete=complete.models, help="Model whose set to add it to."
)
@click.option("--label", "text", metavar="TEXT", help="What its author says it does.")
@click.option("--remove", is_flag=True, help="Remove the LoRA with that ID from the set.")
@format_option
def import_lora(source: str, model: str, text: str | None, remove: bool, fmt: str) -> None:
    """Add a LoRA slider to a set, to use, measure and compare it beside the set's directions.

    FILE is a .safetensors file, of which a copy is kept; REPO is a repository on the Hub, or a file there (REPO/FILE). Every
    command takes its label or its id, lora/NAME, as it takes a direction's; a scale is the adapter's weight. `label` compares it
    with LoRAs of random weights that are as large. A published set names the file by its origin and digest, and does not hold it.

    \b
    Example:
      eigenbank import-lora smile.safetensors --model stable-diffusion-v1-5/stable-diffusion-v1-5 --label smile
    """
    from eigenbank.registry.load import load_without_people_labels
    from eigenbank.registry.local import store

    if remove == (text is not None):
        message = "give --label TEXT to import a LoRA, or --remove to take one out"
        raise click.UsageError(message)
    bank = load_without_people_labels(model)
    if remove:
        bank = store(bank.without_lora(source), replace=True)
        log(f"{source} is taken out of the set of {model} → {bank.folder}")
        return
    assert text is not None
    bank = store(bank.import_lora(source, text), replace=True)
    lora = next(each for each in reversed(bank.loras) if text in [label.text for label in each.labels])
    log(f"{lora.id}, {lora.record.size:,} bytes, is called {text!r} → {bank.folder}")
    row = {"id": lora.full_id, "label": text, "origin": lora.record.origin, "sha256": lora.record.sha256}
    emit("lora", [row], list(row), fmt=fmt)
