"""LoRAs that others trained, held beside a set's directions: the files, kept on this machine by their digest.

A set names a LoRA by its digest and where it came from, and does not hold the file, whose licence is its author's own.
"""

import os
import re
import shutil
from pathlib import Path

from eigenbank.registry.file_kinds import kind_of_tensors
from eigenbank.registry.files import home, open_regular, replacing
from eigenbank.registry.sets.folder import file_digest
from eigenbank.registry.sets.tensors import read_header
from eigenbank.schemas import LoraRecord
from eigenbank.schemas.errors import SourceError

_LAYER = re.compile(r"[._]lora[._](A|B|up|down)\b|\.lokr_|\.lora_magnitude")
_OTHER = re.compile(r"\.(hada|oft)_|\.diff(_b)?$|\.[wb]_norm$")
"""What adapters of other kinds call their tensors: diffusers reads none of these."""
_ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+\.safetensors)", re.ASCII)
_INSIDE = re.compile(r"([\w.-]+/[\w.-]+)/(.+\.safetensors)", re.ASCII)
_NOTHING = "nothing was imported"


def import_file(source: str, name: str) -> LoraRecord:
    """Take in a LoRA: a safetensors file on this machine, of which a copy is kept, or a Hub repository, or `REPO/FILE` of one.

    Returns its record, under `name`, without labels. Raises SourceError for what is no LoRA that diffusers reads, HubError.
    """
    path, origin = _found(source)
    try:
        size = path.stat().st_size
        _check(path, source)
        digest = file_digest(path)
        record = LoraRecord(name=name, sha256=digest, size=size, origin=origin)
        if not _ON_HUB.fullmatch(origin):
            _keep(path, _kept(record))
    except (OSError, ValueError) as error:
        problem = f"{source} cannot be imported ({getattr(error, 'strerror', None) or error})"
        raise SourceError(problem, outcome=_NOTHING) from error
    return record


def lora_file(record: LoraRecord) -> Path:
    """Return the file of a LoRA, fetched from where it came from if need be, once its digest is what the set says.

    Raises SourceError where it is not to be had, or has changed, and HubError.
    """
    path = _kept(record)
    inside = _ON_HUB.fullmatch(record.origin)
    if not path.is_file() and inside is not None:
        from eigenbank.registry.hub.client import fetch_file

        repo, commit, name = inside.groups()
        path = fetch_file(repo, name, commit)
    if not path.is_file():
        problem = f"the file of {record.id} ({record.origin}) is not on this machine, and its set does not hold it"
        raise SourceError(problem, advice="Get the file, and give it to `eigenbank import-lora` once")
    found = file_digest(path)
    if found != record.sha256:
        problem = f"{path} has sha256 {found[:12]}…, the set's {record.id} is {record.sha256[:12]}…: it is another file"
        raise SourceError(problem, outcome="it was not read", advice="Import the LoRA again")
    _check(path, record.id)  # what a stranger's set names may be anything
    return path


def _found(source: str) -> tuple[Path, str]:
    """Return the file that is meant, and where it came from."""
    path = Path(source).expanduser()
    if path.is_dir():
        here = sorted(each.name for each in path.glob("*.safetensors"))
        path = path / _only(here, source, f"{source}/FILE")
    if path.exists():
        return path, path.name
    inside = _INSIDE.fullmatch(source)
    if inside is None and source.count("/") != 1:
        problem = f"no such file: {source}"
        raise SourceError(
            problem, outcome=_NOTHING, advice="Give a .safetensors file, a repository, or REPOSITORY/FILE"
        )
    from eigenbank.registry.hub.client import fetch_file, inspect_repo

    remote = inspect_repo(inside[1] if inside else source)
    files = [each for each in remote.files if each.endswith(".safetensors")]
    name = inside[2] if inside else _only(files, source, f"{source}/FILE")
    if name not in remote.files:
        problem = f"{remote.repo} has no file {name}"
        raise SourceError(problem, outcome=_NOTHING, advice=f"It has {', '.join(files[:10]) or 'no safetensors file'}")
    return fetch_file(remote.repo, name, remote.commit), f"{remote.repo}@{remote.commit}/{name}"


def _only(names: list[str], source: str, form: str) -> str:
    if len(names) == 1:
        return names[0]
    problem = f"{source} holds {len(names)} safetensors files{': ' if names else ''}{', '.join(names[:10])}"
    raise SourceError(problem, outcome=_NOTHING, advice=f"Name one: {form}" if names else "")


def _check(path: Path, source: str) -> None:
    """Raise SourceError, or TensorFileError, for what is no LoRA that diffusers reads."""
    names = list(read_header(path))
    if any(name.endswith(".dora_scale") for name in names):
        problem = (
            f"{source} is a DoRA with dora_scale, which diffusers leaves out: it would not do what its author meant"
        )
        raise SourceError(problem, outcome=_NOTHING, advice="Give one with lora_magnitude_vector, as PEFT writes it")
    if any(_LAYER.search(name) for name in names):
        return
    if any(_OTHER.search(name) for name in names):
        problem = f"{source} is an adapter of a kind that diffusers does not read (its tensors are such as {names[0]})"
        raise SourceError(problem, outcome=_NOTHING, advice="Give a LoRA as diffusers, PEFT or kohya write it")
    what, _ = kind_of_tensors(names) or ("no LoRA", "")
    problem = f"{source} is {what}: a LoRA's tensors are called lora_A and lora_B, or lora_down and lora_up"
    raise SourceError(problem, outcome=_NOTHING)


def _kept(record: LoraRecord) -> Path:
    return home() / "loras" / f"{record.sha256}.safetensors"


def _keep(path: Path, place: Path) -> None:
    if place.is_file() and place.stat().st_size == path.stat().st_size:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(path) as file, replacing(place) as work, work.open("wb") as copy:
        shutil.copyfileobj(file, copy)
        os.fsync(copy.fileno())
