"""What the shell is offered for a half-typed word: model ids, labels, layers and directions of the catalog.

Completing never makes a catalog, and never fails: where there is nothing to offer, nothing is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from eigenbank.registry.catalog import Catalog

MOST = 200


def _offer(find: "Callable[[Catalog, click.Context, str], list[str]]", ctx: click.Context, begun: str) -> list[str]:
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.place import locate
    from eigenbank.schemas.errors import EigenbankError

    try:
        place = locate(None)
        if isinstance(place, Path) and not place.is_file():
            return []
        with Catalog.open(shipped=False) as catalog:
            return [word for word in find(catalog, ctx, begun) if word.startswith(begun)][:MOST]
    except EigenbankError:
        return []


def models(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Model ids that begin so."""
    return _offer(lambda catalog, _ctx, _begun: catalog.model_ids(), ctx, incomplete)


def models_or_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Model ids that begin so, and folders."""
    return [*map(CompletionItem, models(ctx, param, incomplete)), CompletionItem(incomplete, type="dir")]


def sliders(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Label texts, directions and composites of the model named before, that begin so; of all labels where there is none."""

    def find(catalog: "Catalog", ctx: click.Context, begun: str) -> list[str]:
        model = _model(ctx)
        names = catalog.label_texts(model)
        # Thousands of directions only once it is plain that one is meant.
        if model in catalog.model_ids() and begun and not any(name.startswith(begun) for name in names):
            names += [row.name for row in catalog.search(model=model, sort="catalog", limit=10_000)]
        return names

    return _offer(find, ctx, incomplete)


def scaled(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The same, with the `=` that a scale follows."""
    return [] if "=" in incomplete else [f"{name}=" for name in sliders(ctx, param, incomplete)]


def words(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Label texts that begin so."""
    return _offer(lambda catalog, ctx, _begun: catalog.label_texts(_model(ctx)), ctx, incomplete)


def layers(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Layer names that begin so."""

    def find(catalog: "Catalog", ctx: click.Context, _begun: str) -> list[str]:
        model = _model(ctx)
        chosen = [model] if model is not None else catalog.model_ids()[:20]
        return sorted({layer for one in chosen for layer in catalog.layer_names(one)})

    return _offer(find, ctx, incomplete)


def recipes(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Recipes that begin so."""
    return _offer(lambda catalog, ctx, _begun: catalog.recipe_slugs(_model(ctx)), ctx, incomplete)


def revisions(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Revisions of the sets of the model named before, that begin so."""

    def find(catalog: "Catalog", ctx: click.Context, _begun: str) -> list[str]:
        model = _model(ctx)
        return [row.revision for row in catalog.sets() if row.model_id == model and row.revision]

    return _offer(find, ctx, incomplete)


def buildable(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Recipes that a set can be built of, and begin so; those of plugins are not asked for."""
    from eigenbank.registry.recipes import MATRICES

    names = [
        matrix.name if side == "input" else f"{matrix.name}:{side}"
        for matrix in MATRICES.values()
        for side in matrix.sides
    ]
    return [name for name in names if name.startswith(incomplete)]


def directions(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Directions that begin so: first the models, then what lies behind the `#`."""

    def find(catalog: "Catalog", _ctx: click.Context, begun: str) -> list[str]:
        model, hash_sign, _ = begun.partition("#")
        if not hash_sign:
            return [f"{found}#" for found in catalog.model_ids()]
        if model not in catalog.model_ids():
            return []
        return [row.id for row in catalog.search(model=model, sort="catalog", limit=10_000)]

    return _offer(find, ctx, incomplete)


def _model(ctx: click.Context) -> str | None:
    model = next((ctx.params[name] for name in ("model", "first") if ctx.params.get(name)), None)
    return model if isinstance(model, str) and not any(sign in model for sign in "*?[") else None
