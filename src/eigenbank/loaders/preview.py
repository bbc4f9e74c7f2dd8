"""A direction's preview from its set, checked before it is decoded, as a PNG."""

import hashlib
import io
import warnings

from eigenbank.registry.bank import Direction
from eigenbank.registry.card import preview_name
from eigenbank.schemas.errors import SetError

MAX_BYTES = 8 * 2**20
MAX_SIDE = 4096


def preview(direction: Direction) -> bytes | None:
    """The set's preview of a direction as PNG bytes; None where it has none. Raises SetError for a damaged one."""
    bank = direction.bank
    name = preview_name(direction.record)
    entry = bank.manifest.files.get(name)
    if bank.folder is None or entry is None:
        return None
    path = bank.folder / name
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}): nothing was written. Pull the set again"
        raise SetError(message) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        message = f"{path} is not the file its manifest lists: nothing was written. Build or pull the set again"
        raise SetError(message)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
                if max(image.size) > MAX_SIDE:
                    raise ValueError(image.size)
                file = io.BytesIO()
                image.convert("RGB").save(file, format="PNG")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning) as error:
        message = f"{path} is no WebP picture of at most {MAX_SIDE} pixels a side ({error}): nothing was written"
        raise SetError(message) from error
    return file.getvalue()
