"""Loading a bank by model id, and finding the bank of a pipeline."""

from pathlib import Path
from typing import Any

from eigenbank.registry.bank import Bank
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.shipped import resolve
from eigenbank.schemas.errors import UnknownNameError, unknown


def load(model_id: str, *, catalog: str | None = None) -> Bank:
    """The bank of a checkpoint by its model id, from the catalog; or of a direction set's folder, by its path.

    Vectors are read when first used; torch is not imported before. `catalog` is a URL or path, by default the one of
    this machine. Raises UnknownNameError, with near matches, where there is none.
    """
    if (Path(model_id) / "manifest.json").is_file():
        return Bank.open(Path(model_id))
    with Catalog.open(catalog) as opened:
        found = opened.get_set(model_id)
        if found is None:
            raise no_set(model_id, opened)
    return Bank.open(resolve(found.location))


def bank_for(pipe: Any) -> Bank:
    """The catalog's bank for the checkpoint a pipeline was loaded from. Raises UnknownNameError where there is none."""
    from eigenbank.loaders.pipelines import origin_of

    origin = origin_of(pipe)
    if origin is None:
        message = (
            "the pipeline does not say where it was loaded from, so the catalog cannot be asked for its directions: "
            "pass bank=eigenbank.load(MODEL_ID)"
        )
        raise UnknownNameError(message)
    with Catalog.open() as opened:
        found = opened.set_at(origin) or opened.get_set(origin)
        if found is None:
            raise no_set(origin, opened)
    return Bank.open(resolve(found.location))


def no_set(model: str, catalog: Catalog) -> UnknownNameError:
    """The error for a model of which the catalog has no set."""
    hint = f"Build one: eigenbank build {model}"
    return unknown(kind="direction set of", name=model, known=catalog.model_ids(), hint=hint)
