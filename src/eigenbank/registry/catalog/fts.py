"""The word index: which label texts, layer names and models hold a term. SQLite's FTS5, PostgreSQL's search vectors."""

from collections.abc import Iterable, Sequence
from typing import Literal

from sqlalchemy import Connection

from eigenbank.registry.catalog.words import MAX_WORD, Term, split

Kind = Literal["texts", "names", "models"]


def add(connection: Connection, kind: Kind, texts: Iterable[tuple[int, str]]) -> None:
    """Index new texts, given as (number, text)."""
    rows = [(number, split(text)) for number, text in texts]
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        vectors = [(number, _vector(words)) for number, words in rows]
        statement = f"INSERT INTO {kind}_fts (rowid, words) VALUES (%s, %s::tsvector)"
        connection.exec_driver_sql(statement, vectors)
    else:
        statement = f"INSERT INTO {kind}_fts (rowid, words) VALUES (?, ?)"
        connection.exec_driver_sql(statement, [(number, " ".join(words)) for number, words in rows])


def remove(connection: Connection, kind: Kind, number: int, text: str) -> None:
    """Take a text out of the index, given as it was put in."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"DELETE FROM {kind}_fts WHERE rowid = %s", (number,))
    elif words := split(text):
        # The index keeps no texts: it is told what to forget.
        statement = f"INSERT INTO {kind}_fts ({kind}_fts, rowid, words) VALUES ('delete', ?, ?)"
        connection.exec_driver_sql(statement, (number, " ".join(words)))


def _vector(words: Sequence[str]) -> str:
    """Words as PostgreSQL takes them: up to 2 KB long. They hold letters and digits only: nothing in them needs quoting."""
    return " ".join(f"'{word[:MAX_WORD]}':{place + 1}" for place, word in enumerate(words))


def wrong(connection: Connection, kind: Kind, texts: Sequence[tuple[int, str]]) -> int:
    """How many texts, given as all that there are, the index holds other words of than theirs, or holds without them."""
    if connection.dialect.name == "postgresql":
        statement = (
            f"SELECT count(*) FROM unnest(%s::int[], %s::text[]) AS own (number, words) FULL JOIN {kind}_fts AS held "
            "ON held.rowid = own.number WHERE held.words IS DISTINCT FROM own.words::tsvector"
        )
        values = [number for number, _ in texts], [_vector(split(text)) for _, text in texts]
        return int(connection.exec_driver_sql(statement, values).scalar_one())
    expected = {(number, word, place) for number, text in texts for place, word in enumerate(split(text))}
    connection.exec_driver_sql(f"CREATE VIRTUAL TABLE temp.{kind}_words USING fts5vocab(main, {kind}_fts, instance)")
    try:
        found = set(map(tuple, connection.exec_driver_sql(f'SELECT doc, term, "offset" FROM temp.{kind}_words')))
    finally:
        connection.exec_driver_sql(f"DROP TABLE temp.{kind}_words")
    holders: dict[str, set[int]] = {}
    for number, word, _ in expected:
        holders.setdefault(word, set()).add(number)
    differing = {number for number, _, _ in found ^ expected}
    # What is in the index need not be found by it.
    for word, numbers in holders.items():
        differing |= numbers ^ having(connection, [(kind, Term((word,), prefix=False), False)])[0]
    return len(differing)


def having(connection: Connection, asked: Sequence[tuple[Kind, Term, bool]]) -> list[set[int]]:
    """Return for each term the numbers of the texts of a kind that hold it; True lets its last word go on where the term does.

    All are looked up by one statement: each of its own costs more than what it finds.
    """
    parts, queries = [], []
    for number, (kind, term, prefix) in enumerate(asked):
        if connection.dialect.name == "postgresql":
            parts.append(f"SELECT {number}, rowid FROM {kind}_fts WHERE words @@ %s::tsquery")
            query = " <-> ".join(f"'{word}'" for word in term.words) + (":*" if prefix and term.prefix else "")
        else:
            parts.append(f"SELECT {number}, rowid FROM {kind}_fts WHERE {kind}_fts MATCH ?")
            query = " + ".join(f'"{word}"' for word in term.words) + ("*" if prefix and term.prefix else "")
        queries.append(query)
    found: list[set[int]] = [set() for _ in asked]
    for number, row in connection.exec_driver_sql(" UNION ALL ".join(parts), tuple(queries)):
        found[number].add(row)
    return found
