"""What is still to be done with a checkpoint: decided from the plan and the catalog, without doing anything."""

from dataclasses import dataclass

from eigenbank.registry.catalog import SetRow
from eigenbank.registry.hub.location import folder_of, parse
from eigenbank.registry.sets.folder import MANIFEST
from eigenbank.registry.sets.provenance import build_key, key_of, steps_of
from eigenbank.schemas.plan import STEPS, Entry, Settings, Step


@dataclass(frozen=True)
class Wish:
    """What a run is asked for beyond building: labels with previews, and publishing under this user or organisation."""

    label: bool = False
    publish: str | None = None

    def repo(self, entry: Entry) -> str | None:
        """The repository a checkpoint's directions are published in, None where they are not."""
        return None if self.publish is None else f"{self.publish}/{entry.directions_name}"

    def steps(self, settings: Settings) -> tuple[Step, ...]:
        """The steps of a checkpoint, in order. Without a build there is nothing to go on with: it is always one."""
        asked = {"build": True, "label": self.label, "preview": self.label, "publish": self.publish is not None}
        return tuple(step for step in STEPS if step == "build" or (asked[step] and step in settings.steps))


def keys_of(settings: Settings) -> dict[str, str]:
    """The key of each step that changes a set: two that are equal give equal sets of one revision."""
    how = settings.model_dump(mode="json", include={"measurement", "prompt"})
    return {
        "build": build_key(settings.layers, settings.recipes, settings.top_k),
        "label": key_of([settings.asked_labelers, how]),
        "preview": key_of([settings.previews.model_dump(mode="json"), settings.prompt]),
    }


def remaining(entry: Entry, settings: Settings, row: SetRow | None, wish: Wish) -> tuple[Step, ...]:
    """The steps whose result for this revision and recipe does not exist, in order; one that is done entails those after.

    `row` is the catalog's set of that checkpoint and revision, if it has one.
    """
    steps = wish.steps(settings)
    if row is None or not is_there(row):
        return steps
    done, keys = steps_of(row.builder), keys_of(settings)
    for number, step in enumerate(steps):
        if step == "publish":
            there = row.commit is not None and row.repo == wish.repo(entry)
        else:
            there = done.get(step) == keys[step]
        if not there:
            return steps[number:]
    return ()


def is_there(row: SetRow) -> bool:
    """Whether a set is where the catalog says. One that is published at a commit can always be fetched."""
    return parse(row.location) is not None or (folder_of(row.location) / MANIFEST).is_file()
