"""Changing the catalog: sets and people's labels. Every function works inside the caller's transaction."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from eigenbank.registry.catalog import fts
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    ProtocolTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    StrayTable,
    TextTable,
)
from eigenbank.registry.catalog.read import labels_of
from eigenbank.registry.catalog.sql import among, intern, next_id, path_key
from eigenbank.schemas import Checkpoint, Evidence, Label, Manifest


def by_human(label: Label) -> bool:
    """Whether a person gave the label."""
    return label.source.partition(":")[0] == "human"


def add_set(
    connection: Connection,
    manifest: Manifest,
    *,
    location: str,
    digest: str,
    checkpoint_path: str | None,
    repo: str | None,
    commit: str | None,
) -> None:
    """Put a set in, in the place of the one of the same model and revision. People's labels are carried over."""
    checkpoint_id = _checkpoint(connection, manifest.checkpoint, checkpoint_path)
    human = _take_out(connection, checkpoint_id)
    set_id = next_id(connection, SetTable)
    connection.execute(
        insert(SetTable),
        {
            "id": set_id,
            "checkpoint_id": checkpoint_id,
            "location": location,
            "digest": digest,
            "created": manifest.created,
            "builder": manifest.builder,
            "licence": manifest.licence,
            "repo": repo,
            "commit": commit,
            "directions": len(manifest.directions),
            "labels": 0,
        },
    )
    layers = _layers(connection, set_id, manifest)
    labels = _directions(connection, layers, manifest, human)
    _keep(connection, checkpoint_id, human)
    connection.execute(update(SetTable).where(SetTable.id == set_id).values(labels=labels))


def set_published(connection: Connection, digest: str, repo: str, commit: str) -> bool:
    """Note where the set of a manifest digest was published. Returns whether there is one."""
    statement = update(SetTable).where(SetTable.digest == digest).values({"repo": repo, "commit": commit})
    return bool(connection.execute(statement).rowcount)


def _checkpoint(connection: Connection, checkpoint: Checkpoint, path: str | None) -> int:
    revision = checkpoint.revision or ""
    values: dict[str, Any] = {
        "denoiser": checkpoint.denoiser,
        "component": checkpoint.component,
        "licence": checkpoint.licence,
    }
    if path is not None:
        values["path"] = path_key(path)
    found = connection.execute(
        select(CheckpointTable.id).where(
            CheckpointTable.model_id == checkpoint.model_id, CheckpointTable.revision == revision
        )
    ).scalar()
    if found is not None:
        connection.execute(update(CheckpointTable).where(CheckpointTable.id == found).values(values))
        return found
    number = next_id(connection, CheckpointTable)
    values |= {"id": number, "model_id": checkpoint.model_id, "revision": revision}
    connection.execute(insert(CheckpointTable), values)
    return number


def _take_out(connection: Connection, checkpoint_id: int) -> dict[str, list[Label]]:
    """Remove the checkpoint's set, if it has one. Returns people's labels by direction name, strays included."""
    human: dict[str, list[Label]] = {}
    strays = select(StrayTable.direction, StrayTable.label).where(StrayTable.checkpoint_id == checkpoint_id)
    for name, text in connection.execute(strays):
        human.setdefault(name, []).append(Label.model_validate_json(text))
    connection.execute(delete(StrayTable).where(StrayTable.checkpoint_id == checkpoint_id))
    set_id = connection.execute(select(SetTable.id).where(SetTable.checkpoint_id == checkpoint_id)).scalar()
    if set_id is None:
        return human
    layers = connection.execute(
        select(LayerTable.id, CheckpointTable.model_id, LayerTable.name)
        .join(SetTable, SetTable.id == LayerTable.set_id)
        .join(CheckpointTable, CheckpointTable.id == SetTable.checkpoint_id)
        .where(SetTable.id == set_id)
    ).all()
    labelled = connection.execute(
        select(DirectionTable.id, LayerTable.name, RecipeTable.slug, DirectionTable.rank)
        .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .join(RecipeTable, RecipeTable.id == SpectrumTable.recipe_id)
        .where(LayerTable.set_id == set_id, DirectionTable.labels > 0)
    ).all()
    labels = labels_of(connection, [row[0] for row in labelled])
    for number, layer, recipe, rank in labelled:
        for label in labels[number]:
            if by_human(label):
                human.setdefault(f"{layer}/{recipe}/{rank}", []).append(label)
    fts.remove_layers(connection, [(row[0], row[1], row[2]) for row in layers])
    connection.execute(delete(SetTable).where(SetTable.id == set_id))
    return human


def _layers(connection: Connection, set_id: int, manifest: Manifest) -> dict[str, int]:
    first = next_id(connection, LayerTable)
    numbers = {layer.name: first + index for index, layer in enumerate(manifest.layers)}
    if numbers:
        connection.execute(
            insert(LayerTable),
            [
                {
                    "id": numbers[layer.name],
                    "set_id": set_id,
                    "name": layer.name,
                    "kind": layer.kind,
                    "width": layer.width,
                    "heads": layer.heads,
                }
                for layer in manifest.layers
            ],
        )
        fts.add_layers(connection, ((id_, manifest.checkpoint.model_id, name) for name, id_ in numbers.items()))
    return numbers


def _directions(
    connection: Connection, layers: Mapping[str, int], manifest: Manifest, human: dict[str, list[Label]]
) -> int:
    """Insert the directions, grouped by spectrum and in order of rank, with their labels and those that `human` holds
    for them, which are taken from there. Returns how many labels.
    """
    recipes = intern(connection, RecipeTable, "slug", (record.recipe.slug for record in manifest.directions))
    groups: dict[tuple[int, int], list[Any]] = {}
    for record in manifest.directions:
        groups.setdefault((layers[record.layer], recipes[record.recipe.slug]), []).append(record)
    spectrum, number = next_id(connection, SpectrumTable), next_id(connection, DirectionTable)
    spectra: list[dict[str, Any]] = []
    directions: list[dict[str, Any]] = []
    labels: list[tuple[int, Label]] = []
    for key in sorted(groups):
        spectra.append({"id": spectrum, "layer_id": key[0], "recipe_id": key[1], "directions": len(groups[key])})
        for record in sorted(groups[key], key=lambda record: int(record.rank)):
            own = distinct([*record.labels, *human.pop(record.id, ())])
            directions.append(
                {
                    "id": number,
                    "spectrum_id": spectrum,
                    "rank": record.rank,
                    "eigenvalue": record.eigenvalue,
                    "share": record.share,
                    "gap": record.gap,
                    "labels": len(own),
                    "confidence": max(
                        (label.confidence for label in own if label.confidence is not None), default=None
                    ),
                }
            )
            labels.extend((number, label) for label in own)
            number += 1
        spectrum += 1
    if directions:
        connection.execute(insert(SpectrumTable), spectra)
        connection.execute(insert(DirectionTable), directions)
    insert_labels(connection, labels)
    return len(labels)


def _keep(connection: Connection, checkpoint_id: int, human: Mapping[str, list[Label]]) -> None:
    """Keep people's labels whose direction the new set does not have."""
    first = next_id(connection, StrayTable)
    left = [(name, label.model_dump_json()) for name, labels in human.items() for label in labels]
    if left:
        connection.execute(
            insert(StrayTable),
            [
                {"id": first + index, "checkpoint_id": checkpoint_id, "direction": name, "label": label}
                for index, (name, label) in enumerate(left)
            ],
        )


def distinct(labels: Iterable[Label]) -> list[Label]:
    """Return one label of each text and source, the newest of those that say the same."""
    kept: dict[tuple[str, str], Label] = {}
    for label in labels:
        other = kept.get((label.text, label.source))
        if other is None or label.created.timestamp() >= other.created.timestamp():
            kept[label.text, label.source] = label
    return list(kept.values())


def insert_labels(connection: Connection, labels: list[tuple[int, Label]]) -> None:
    """Insert labels, given with the number of their direction. The caller keeps the counts."""
    if not labels:
        return
    names = [label.text for _, label in labels]
    names += [label.evidence.runner_up for _, label in labels if label.evidence and label.evidence.runner_up]
    texts = intern_texts(connection, names)
    sources = intern(connection, SourceTable, "name", (label.source for _, label in labels))
    protocols = _protocols(connection, [label.evidence for _, label in labels if label.evidence])
    rows = []
    for number, label in labels:
        evidence = label.evidence
        rows.append(
            {
                "direction_id": number,
                "text_id": texts[label.text],
                "source_id": sources[label.source],
                "polarity": label.polarity,
                "confidence": label.confidence,
                "created": label.created,
                "note": label.note,
                "protocol_id": protocols[_protocol(evidence)[0]] if evidence else None,
                "effect": evidence.effect if evidence else None,
                "selectivity": evidence.selectivity if evidence else None,
                "consistency": evidence.consistency if evidence else None,
                "asymmetry": evidence.asymmetry if evidence else None,
                "runner_up_id": texts[evidence.runner_up] if evidence and evidence.runner_up else None,
                "runner_up_effect": evidence.runner_up_effect if evidence else None,
            }
        )
    # In the order of the index: pages are then filled one after the other.
    rows.sort(key=lambda row: (row["direction_id"], row["text_id"], row["source_id"]))
    connection.execute(insert(LabelTable), rows)


def intern_texts(connection: Connection, texts: Iterable[str]) -> dict[str, int]:
    """Return the numbers of label texts, adding those that are new to the table and to the word index."""
    first = next_id(connection, TextTable)
    numbers = intern(connection, TextTable, "text", texts)
    fts.add_texts(connection, ((number, text) for text, number in numbers.items() if number >= first))
    return numbers


def _protocol(evidence: Evidence) -> tuple[str, str]:
    """Return a protocol's digest and its seeds as JSON."""
    seeds = json.dumps(list(evidence.seeds), separators=(",", ":"))
    return hashlib.sha256(f"{evidence.scale!r} {evidence.steps} {seeds}".encode()).hexdigest(), seeds


def _protocols(connection: Connection, evidence: list[Evidence]) -> dict[str, int]:
    wanted: dict[str, dict[str, Any]] = {}
    for item in evidence:
        digest, seeds = _protocol(item)
        wanted[digest] = {"digest": digest, "scale": item.scale, "steps": item.steps, "seeds": seeds}
    if not wanted:
        return {}
    found = connection.execute(
        select(ProtocolTable.digest, ProtocolTable.id).where(among(ProtocolTable.digest, wanted))
    )
    known = {row[0]: row[1] for row in found}
    missing = [digest for digest in wanted if digest not in known]
    if missing:
        first = next_id(connection, ProtocolTable)
        known.update({digest: first + index for index, digest in enumerate(missing)})
        connection.execute(insert(ProtocolTable), [{"id": known[digest], **wanted[digest]} for digest in missing])
    return known


def put_label(connection: Connection, direction_id: int, label: Label) -> None:
    """Give a direction a label, in the place of the one of the same text and source."""
    texts = intern_texts(connection, [label.text])
    sources = intern(connection, SourceTable, "name", [label.source])
    remove_label(connection, direction_id, texts[label.text], sources[label.source])
    insert_labels(connection, [(direction_id, label)])
    recount(connection, direction_id)


def remove_label(connection: Connection, direction_id: int, text_id: int, source_id: int) -> bool:
    """Take one label off a direction. Returns whether there was one."""
    removed = connection.execute(
        delete(LabelTable).where(
            LabelTable.direction_id == direction_id, LabelTable.text_id == text_id, LabelTable.source_id == source_id
        )
    ).rowcount
    recount(connection, direction_id)
    return bool(removed)


def recount(connection: Connection, direction_id: int) -> None:
    """Bring a direction's derived columns, and its set's, up to date with its labels."""
    before, set_id = connection.execute(
        select(DirectionTable.labels, LayerTable.set_id)
        .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .where(DirectionTable.id == direction_id)
    ).one()
    count, best = connection.execute(
        select(func.count(), func.max(LabelTable.confidence)).where(LabelTable.direction_id == direction_id)
    ).one()
    connection.execute(
        update(DirectionTable).where(DirectionTable.id == direction_id).values(labels=count, confidence=best)
    )
    connection.execute(update(SetTable).where(SetTable.id == set_id).values(labels=SetTable.labels + count - before))
