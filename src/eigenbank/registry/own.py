"""The labels that people gave in a catalog, which the direction sets it points to do not hold."""

from eigenbank.registry.catalog import Catalog
from eigenbank.schemas import Label, Manifest


def own_labels(manifest: Manifest, catalog: Catalog) -> dict[str, tuple[Label, ...]]:
    """People's labels of this catalog, by the id of the set's direction or composite, less those that the set holds itself."""
    found: dict[str, tuple[Label, ...]] = {}
    people = catalog.people_labels(manifest.checkpoint.model_id)
    for record in manifest.sliders if people else ():
        new = tuple(label for label in people.get(record.id, ()) if label not in record.labels)
        if new:
            found[record.id] = new
    return found
