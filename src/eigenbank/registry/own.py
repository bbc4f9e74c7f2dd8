"""The labels that people gave in a catalog, which the direction sets it points to do not hold."""

from eigenbank.registry.catalog import Catalog
from eigenbank.schemas import Label, Manifest


def own_labels(manifest: Manifest, catalog: Catalog) -> dict[str, tuple[Label, ...]]:
    """People's labels of this catalog, by the id of the set's direction or composite, less those that the set holds itself."""
    if catalog.get_set(manifest.checkpoint.model_id) is None:
        return {}
    records = {record.id: record for record in manifest.sliders}
    given: dict[str, tuple[Label, ...]] = {}
    cursor = None
    while True:
        page = catalog.search(model=manifest.checkpoint.model_id, source="human", limit=1000, cursor=cursor)
        for row in page.rows:
            record = records.get(row.id.partition("#")[2])
            if record is None:
                continue
            new = tuple(
                label for label in row.labels if label.source.startswith("human:") and label not in record.labels
            )
            if new:
                given[record.id] = new
        cursor = page.cursor
        if cursor is None:
            return given
