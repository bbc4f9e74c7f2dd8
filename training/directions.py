"""Build the demo checkpoint's direction set, and find its sliders: `make directions`.

    python training/directions.py    # into the catalog of EIGENBANK_HOME

The first sixteen directions of both default recipes, in which two words have sliders that any file can hold; then all of what layers
write, in which any words have one.
"""

from eigenbank.api import build, find_checkpoint
from eigenbank.cli.demo import RECIPE, TOP_K, WORDS, find_words
from eigenbank.registry.local import store
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID
from eigenbank.registry.sets.direction_set import DirectionSet


def main() -> None:
    """Build, find, store."""
    bank = find_words(build(DEMO_MODEL_ID, top_k=16), WORDS[:2])
    writes = build(DEMO_MODEL_ID, recipes=[RECIPE], top_k=TOP_K)
    more = tuple(each for each in writes.manifest.directions if each.id not in bank)
    manifest = bank.manifest.model_copy(update={"directions": (*bank.manifest.directions, *more)})
    whole = DirectionSet(manifest, vectors={**bank.vectors, **writes.vectors}, displacements=bank.displacements)
    store(find_words(whole, WORDS[2:]), checkpoint=find_checkpoint(DEMO_MODEL_ID)[1], replace=True)


if __name__ == "__main__":
    main()
