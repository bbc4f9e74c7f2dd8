"""Questions to a catalog: its sets, names and directions."""

import math
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from eigenbank.registry.catalog import names, read
from eigenbank.registry.catalog.engine import Database
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.parts import number
from eigenbank.registry.catalog.query import MAX_LIMIT, Filters, check_sort
from eigenbank.registry.catalog.rows import DirectionRow, Page, SetRow, parse_name
from eigenbank.registry.catalog.scope import label_test
from eigenbank.registry.catalog.search import Search
from eigenbank.registry.catalog.sql import path_key, storable
from eigenbank.registry.orders import Sort
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import CatalogError, UnknownNameError

if TYPE_CHECKING:
    from eigenbank.registry.catalog.losses import Losses


class Reader:
    """What can be asked of a catalog. Every method is one transaction that sees one state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Sets and names

    def get_set(self, model_id: str, revision: str | None = None) -> SetRow | None:
        """Return the set of a model, the newest one if no revision is named."""
        if not storable(model_id) or (revision is not None and not storable(revision)):
            return None
        conditions = [CheckpointTable.model_id == model_id]
        if revision is not None:
            conditions.append(CheckpointTable.revision == revision)
        with self._database.reading() as connection:
            return read.newest(connection, *conditions)

    def sets_at(self, checkpoint_path: str) -> list[SetRow]:
        """Return the sets that were computed from the checkpoint in a local folder, the newest first."""
        if not storable(checkpoint_path):
            return []
        with self._database.reading() as connection:
            return read.newest_first(connection, CheckpointTable.path == path_key(checkpoint_path))

    def losses(self, model_id: str, revision: str | None, new: Manifest | None = None) -> "Losses":
        """Return what the set of a checkpoint has that `new` in its place would lack; None is one without labels, composites
        and previews.
        """
        from eigenbank.registry.catalog.losses import losses

        with self._database.reading() as connection:
            return losses(connection, model_id, revision or "", new)

    def check_place(self, model_id: str, revision: str | None, new: Manifest | None = None, *, outcome: str) -> None:
        """Raise ReplaceError where that is anything; `outcome` is what became of the new set."""
        from eigenbank.registry.catalog.losses import check_place

        with self._database.reading() as connection:
            check_place(connection, model_id, revision or "", new, outcome)

    def sets(self) -> list[SetRow]:
        """Return all sets, by model id, the newest first within one."""
        with self._database.reading() as connection:
            return read.sets(connection)

    def model_ids(self) -> list[str]:
        """Return the models that have a set, sorted."""
        statement = select(CheckpointTable.model_id).distinct().order_by(CheckpointTable.model_id)
        with self._database.reading() as connection:
            return read.strings(connection, statement.join(SetTable, SetTable.checkpoint_id == CheckpointTable.id))

    def layer_names(self, model_id: str) -> list[str]:
        """Return the layers of a model's newest set, in the set's order."""
        if not storable(model_id):
            return []
        newest = read.newest_set_id(model_id).scalar_subquery()
        statement = select(NameTable.name).join(LayerTable, LayerTable.name_id == NameTable.id)
        with self._database.reading() as connection:
            return read.strings(connection, statement.where(LayerTable.set_id == newest).order_by(LayerTable.id))

    def recipe_slugs(self, model_id: str | None = None) -> list[str]:
        """Return the recipes of a model's newest set, or of all sets, sorted."""
        statement = select(RecipeTable.slug).order_by(RecipeTable.slug)
        inner = select(SpectrumTable.recipe_id)
        if model_id is not None:
            if not storable(model_id):
                return []
            newest = read.newest_set_id(model_id).scalar_subquery()
            inner = inner.join(LayerTable, LayerTable.id == SpectrumTable.layer_id).where(LayerTable.set_id == newest)
        with self._database.reading() as connection:
            return read.strings(connection, statement.where(RecipeTable.id.in_(inner)))

    def label_texts(self, model_id: str | None = None) -> list[str]:
        """Return the different label texts of a model's newest set, or of all sets, sorted."""
        statement = select(TextTable.text).order_by(TextTable.text)
        if model_id is None:
            statement = statement.where(select(LabelTable.text_id).where(LabelTable.text_id == TextTable.id).exists())
        else:
            if not storable(model_id):
                return []
            inner = (
                select(LabelTable.text_id)
                .join(DirectionTable, DirectionTable.id == LabelTable.direction_id)
                .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
                .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
                .where(LayerTable.set_id == read.newest_set_id(model_id).scalar_subquery())
            )
            statement = statement.where(TextTable.id.in_(inner))
        with self._database.reading() as connection:
            return read.strings(connection, statement)

    def label_counts(
        self, model_id: str | None = None, source: str | None = None
    ) -> list[tuple[str, int, float | None]]:
        """Return the label texts with how many directions have each and the highest confidence, the most frequent first.

        `model_id` limits them to a model's newest set; `source` is a label's source, its first part or a glob. Raises
        UnknownNameError for a model that is not there.
        """
        statement = (
            select(TextTable.text, func.count(LabelTable.direction_id.distinct()), func.max(LabelTable.confidence))
            .join(LabelTable, LabelTable.text_id == TextTable.id)
            .group_by(TextTable.id, TextTable.text)
        )
        with self._database.reading() as connection:
            if model_id is not None:
                set_id = connection.execute(read.newest_set_id(model_id)).scalar() if storable(model_id) else None
                if set_id is None:
                    raise names.unknown_model(connection, model_id)
                statement = statement.join(DirectionTable, DirectionTable.id == LabelTable.direction_id)
                statement = statement.join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
                statement = statement.join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
                statement = statement.where(LayerTable.set_id == set_id)
            statement = statement.where(*label_test(connection, Filters(source=source)).conditions())
            found = [(row[0], row[1], number(row[2])) for row in connection.execute(statement)]
        return sorted(found, key=lambda row: (-row[1], row[0]))

    def near(self, text: str) -> dict[str, list[str]]:
        """Return the words of a query that nothing in the catalog begins with, each with the nearest words there are."""
        with self._database.reading() as connection:
            return names.near(connection, text)

    def unknown_direction(self, full_id: str) -> UnknownNameError:
        """Return the error for a direction that is not there, with near matches."""
        with self._database.reading() as connection:
            return names.unknown_direction(connection, full_id)

    # Directions

    def get_direction(self, full_id: str) -> DirectionRow | None:
        """Return a direction by `MODEL_ID#LAYER/RECIPE/RANK`, or a composite by `MODEL_ID#composite/NAME`, of the newest set
        of its model.
        """
        name = parse_name(full_id)
        if name is None or not storable(full_id):
            return None
        with self._database.reading() as connection:
            number = read.direction_id(connection, name)
            return None if number is None else read.directions(connection, [number])[0]

    def search(
        self,
        text: str | None = None,
        *,
        model: str | None = None,
        layer: str | None = None,
        recipe: str | None = None,
        rank: int | None = None,
        kind: str | None = None,
        width: int | None = None,
        denoiser: str | None = None,
        licence: str | None = None,
        location: str | None = None,
        min_eigenvalue: float | None = None,
        max_eigenvalue: float | None = None,
        min_share: float | None = None,
        max_share: float | None = None,
        source: str | None = None,
        min_confidence: float | None = None,
        labelled: bool | None = None,
        min_gap: float | None = None,
        min_effect: float | None = None,
        min_selectivity: float | None = None,
        min_consistency: float | None = None,
        min_linearity: float | None = None,
        min_locality: float | None = None,
        max_drift: float | None = None,
        composites: bool | None = None,
        sort: Sort = "match",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return a page of the directions and composites that meet every filter (see `Filters`), best match first.

        Words of `text` match the beginnings of words in labels, layers and model ids, `"in quotes"` they match as they
        stand. An empty text means no text. `limit` is 1 to 10,000; `cursor` is the one of the page before.

        Raises UnknownNameError for a model, layer, recipe or order given by its plain name that is not there,
        CatalogError for a cursor of another search or a text of too many words.
        """
        check_sort(sort)
        if not 1 <= limit <= MAX_LIMIT:
            message = (
                f"a page holds 1 to {MAX_LIMIT:,} directions, {limit} were asked for: ask for pages with a cursor."
            )
            raise CatalogError(message)
        filters = Filters(
            text=text if text is not None and text.strip() else None,
            model=model,
            layer=layer,
            recipe=recipe,
            rank=rank,
            kind=kind,
            width=width,
            denoiser=denoiser,
            licence=licence,
            location=location,
            min_eigenvalue=min_eigenvalue,
            max_eigenvalue=max_eigenvalue,
            min_share=min_share,
            max_share=max_share,
            source=source,
            min_confidence=min_confidence,
            labelled=labelled,
            min_gap=min_gap,
            min_effect=min_effect,
            min_selectivity=min_selectivity,
            min_consistency=min_consistency,
            min_linearity=min_linearity,
            min_locality=min_locality,
            max_drift=max_drift,
            composites=composites,
            sort=sort,
        )
        if any(isinstance(value, float) and math.isnan(value) for value in filters.values):
            message = "nan is no bound: give a number."
            raise CatalogError(message)
        with self._database.reading() as connection:
            return Search(connection, filters).page(limit, cursor)
