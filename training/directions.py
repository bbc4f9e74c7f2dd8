"""Build the demo checkpoint's direction set, and find its sliders: `make directions`.

    python training/directions.py    # into the catalog of EIGENBANK_HOME

As `eigenbank demo` does it, and with how good the sliders are.
"""

from eigenbank.api import build, find_checkpoint
from eigenbank.cli.demo import FITTED, ON_MORE_SEEDS, WORDS, find_words, whole
from eigenbank.registry.local import store
from eigenbank.registry.sets.bundled import DEMO_MODEL_ID


def main() -> None:
    """Build, find, store."""
    fitted = find_words(build(DEMO_MODEL_ID, top_k=16), WORDS[:FITTED])
    bank = find_words(whole(fitted), WORDS[FITTED:], **ON_MORE_SEEDS)
    store(bank, checkpoint=find_checkpoint(DEMO_MODEL_ID)[1], replace=True)


if __name__ == "__main__":
    main()
