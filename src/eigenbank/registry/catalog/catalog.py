"""The catalog as the rest of the program sees it."""

import os
from types import TracebackType
from typing import Any

from sqlalchemy import URL, select

from eigenbank.registry.catalog import read, seed, write
from eigenbank.registry.catalog.engine import Database
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.place import locate
from eigenbank.registry.catalog.query import MAX_LIMIT, Filters, Sort, check_sort
from eigenbank.registry.catalog.rows import DirectionName, DirectionRow, Page, SetRow
from eigenbank.registry.catalog.schema import open_file
from eigenbank.registry.catalog.search import Search
from eigenbank.registry.catalog.sql import path_key, storable
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError, unknown

__all__ = ["Catalog"]


class Catalog:
    """Checkpoints, layers, directions, labels and where the sets are. Use as a context manager; safe between threads.

    Every method is one transaction: readers see one state, and a change is made whole or not at all. Each raises
    CatalogError when the database cannot be used.
    """

    def __init__(self, database: Database, *, writable: bool) -> None:
        self._database = database
        self._writable = writable

    @classmethod
    def open(cls, url: str | os.PathLike[str] | None = None, *, shipped: bool = True) -> "Catalog":
        """Open a catalog, made if it is not there yet. With `shipped`, what comes with eigenbank is put in, once.

        `url` is a path, `sqlite:///PATH` or `postgresql+psycopg://…`. None: the environment's `EIGENBANK_CATALOG`, else
        `catalog.db` at home. Raises CatalogError for what is not a catalog, or one of a newer schema; nothing is
        written then.
        """
        place = locate(url)
        if isinstance(place, URL):
            message = (
                f"{place.render_as_string(hide_password=True)} is a PostgreSQL catalog, which this version cannot open "
                "yet: expected a path or sqlite:///PATH. Nothing was changed."
            )
            raise CatalogError(message)
        database, writable = open_file(place)
        catalog = cls(database, writable=writable)
        try:
            if shipped and writable:
                seed.offer_shipped(database)
        except BaseException:
            catalog.close()
            raise
        return catalog

    @property
    def place(self) -> str:
        """The catalog's file, or its URL without the password."""
        return self._database.place

    def close(self) -> None:
        """Close the connections. The catalog cannot be used after."""
        self._database.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _change(self) -> Any:
        if not self._writable:
            message = (
                f"the catalog {self.place} is read-only: nothing was changed. Check the permissions of the file and of "
                "its folder, or name another with --catalog or EIGENBANK_CATALOG."
            )
            raise CatalogError(message)
        return self._database.writing()

    # Changing

    def add_set(
        self,
        manifest: Manifest,
        *,
        location: str,
        digest: str,
        checkpoint_path: str | None = None,
        repo: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Put a set in, in the place of the one of the same model id and revision.

        People's labels (`human:…`) are carried over; those whose direction the new set lacks wait for one that has it.
        `location` is where the set is, `digest` its manifest's, `checkpoint_path` the local folder it was computed
        from (None leaves the known one), `repo` and `commit` where it was published.
        """
        with self._change() as connection:
            write.add_set(
                connection,
                manifest,
                location=location,
                digest=digest,
                checkpoint_path=checkpoint_path,
                repo=repo,
                commit=commit,
            )

    def set_published(self, digest: str, repo: str, commit: str) -> bool:
        """Note where the set of a manifest digest was published. Returns whether the catalog has that set."""
        with self._change() as connection:
            return write.set_published(connection, digest, repo, commit)

    def add_label(self, full_id: str, label: Label) -> None:
        """Give a direction a label; one of the same text and source is replaced. Raises UnknownNameError."""
        with self._change() as connection:
            write.put_label(connection, self._number(connection, full_id), label)

    def remove_label(self, full_id: str, text: str, source: str) -> bool:
        """Take one source's label off a direction. Returns whether it was there. Raises UnknownNameError."""
        with self._change() as connection:
            number = self._number(connection, full_id)
            texts = connection.execute(select(TextTable.id).where(TextTable.text == text)).scalar()
            sources = connection.execute(select(SourceTable.id).where(SourceTable.name == source)).scalar()
            if texts is None or sources is None:
                return False
            return write.remove_label(connection, number, texts, sources)

    def _number(self, connection: Any, full_id: str) -> int:
        name = DirectionName.parse(full_id)
        number = read.direction_id(connection, name) if name is not None and storable(full_id) else None
        if number is None:
            hint = "Names have the form MODEL_ID#LAYER/RECIPE/RANK."
            models = read.strings(connection, select(CheckpointTable.model_id).distinct())
            if name is None or name.model_id not in models:
                raise unknown(kind="model", name=full_id.partition("#")[0][:200], known=models, hint=hint)
            near = select(LayerTable.name, RecipeTable.slug).where(
                LayerTable.set_id == read.newest_set_id(name.model_id).scalar_subquery(),
                SpectrumTable.layer_id == LayerTable.id,
                RecipeTable.id == SpectrumTable.recipe_id,
            )
            known = [f"{name.model_id}#{layer}/{slug}/{name.rank}" for layer, slug in connection.execute(near)]
            raise unknown(kind="direction", name=full_id[:800], known=known, hint=hint)
        return number

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

    def set_at(self, checkpoint_path: str) -> SetRow | None:
        """Return the newest set that was computed from the checkpoint in a local folder."""
        if not storable(checkpoint_path):
            return None
        with self._database.reading() as connection:
            return read.newest(connection, CheckpointTable.path == path_key(checkpoint_path))

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
        with self._database.reading() as connection:
            return read.strings(
                connection, select(LayerTable.name).where(LayerTable.set_id == newest).order_by(LayerTable.id)
            )

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

    # Directions

    def get_direction(self, full_id: str) -> DirectionRow | None:
        """Return a direction by `MODEL_ID#LAYER/RECIPE/RANK`, of the newest set of its model."""
        name = DirectionName.parse(full_id)
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
        sort: Sort = "match",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Return a page of the directions that meet every filter (see `Filters`), best match first.

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
            sort=sort,
        )
        with self._database.reading() as connection:
            return Search(connection, filters).page(limit, cursor)
