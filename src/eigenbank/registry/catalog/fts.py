"""The word index: which texts and which layers hold a term."""

from collections.abc import Iterable

from sqlalchemy import Connection

from eigenbank.registry.catalog.words import Term, split


def add_texts(connection: Connection, texts: Iterable[tuple[int, str]]) -> None:
    """Index new label texts, given as (number, text)."""
    rows = [(number, " ".join(split(text))) for number, text in texts]
    if rows:
        connection.exec_driver_sql("INSERT INTO texts_fts(rowid, words) VALUES (?, ?)", rows)


def _layer_rows(layers: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    return [(number, " ".join(split(model_id)), " ".join(split(name))) for number, model_id, name in layers]


def add_layers(connection: Connection, layers: Iterable[tuple[int, str, str]]) -> None:
    """Index new layers, given as (number, model id, name)."""
    if rows := _layer_rows(layers):
        connection.exec_driver_sql("INSERT INTO layers_fts(rowid, model, layer) VALUES (?, ?, ?)", rows)


def remove_layers(connection: Connection, layers: Iterable[tuple[int, str, str]]) -> None:
    """Take layers out of the index. A contentless index must be told again what was in it."""
    if rows := _layer_rows(layers):
        connection.exec_driver_sql(
            "INSERT INTO layers_fts(layers_fts, rowid, model, layer) VALUES ('delete', ?, ?, ?)", rows
        )


def texts_with(connection: Connection, term: Term, *, prefix: bool) -> set[int]:
    """Return the numbers of the texts that hold a term; `prefix` lets its last word go on where the term does."""
    statement = "SELECT rowid FROM texts_fts WHERE texts_fts MATCH ?"
    return {row[0] for row in connection.exec_driver_sql(statement, (term.fts5(prefix=prefix),))}


def layers_with(connection: Connection, term: Term) -> set[int]:
    """Return the numbers of the layers whose name, or whose model's id, holds a term."""
    statement = "SELECT rowid FROM layers_fts WHERE layers_fts MATCH ?"
    return {row[0] for row in connection.exec_driver_sql(statement, (term.fts5(prefix=True),))}
