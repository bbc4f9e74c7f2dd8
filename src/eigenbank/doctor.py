"""Is everything where it should be? What `eigenbank doctor` looks at. Nothing is made, changed or brought up to date."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from eigenbank.schemas.errors import EigenbankError

PACKAGE = "eigenbank"
FEW = 512 * 2**20
"""Less free room than this, in bytes, is worth a warning: a checkpoint's set has some dozen megabytes."""

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found in one place. A `problem` keeps eigenbank from working, a `warning` a part of it; `advice` says
    what to do.
    """

    check: str
    status: Status
    found: str
    advice: str | None = None


def examine(*, devices: bool = False, seconds: float = 3.0) -> list[Finding]:
    """All findings, in a fixed order. `devices` imports torch to ask what it can compute on; `seconds` is how long the
    Hub may take to answer.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _program, _libraries, _extras, _devices if devices else _torch_build, _home, _catalog, _cache,
        lambda: _hub(seconds), _plugins,
    ]  # fmt: skip
    return [finding for check in checks for finding in check()]


def _program() -> Iterator[Finding]:
    import eigenbank

    yield Finding("eigenbank", "ok", f"{eigenbank.__version__}, in {Path(eigenbank.__file__).parent}")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable}); {system}")


def _libraries() -> Iterator[Finding]:
    found, wrong = [], []
    for name, wanted, version, fits in _requirements(None):
        found.append(f"{name} {version}" if version else f"no {name}")
        if not fits:
            wrong.append(f"{name}{wanted}")
    if not found:
        advice = "Install the package: pip install -e . where its pyproject.toml is"
        yield Finding("libraries", "warning", "the package is not installed: what it needs is not known", advice)
    elif wrong:
        advice = f"pip install {' '.join(repr(one) for one in wrong)}"
        yield Finding("libraries", "problem", ", ".join(found), advice)
    else:
        yield Finding("libraries", "ok", ", ".join(found))


def _extras() -> Iterator[Finding]:
    try:
        offered = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    there: list[str] = []
    missing: list[str] = []
    for extra in offered:
        whole = all(fits for *_, fits in _requirements(extra))
        (there if whole else missing).append(extra)
    found = f"{', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    yield Finding("extras", "ok", found, f"pip install '{PACKAGE}[NAME]'" if missing else None)


def _requirements(extra: str | None) -> Iterator[tuple[str, str, str | None, bool]]:
    """Of what the package (or one of its extras) needs: the name, the versions wanted, the one installed, and whether
    it fits. Nothing where the package is not installed.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if (extra is None and not always) or (
            extra is not None and (always or wanted.marker is None or not wanted.marker.evaluate({"extra": extra}))
        ):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield wanted.name, str(wanted.specifier), None, False
            continue
        yield wanted.name, str(wanted.specifier), version, wanted.specifier.contains(version, prereleases=True)


def _torch_build() -> Iterator[Finding]:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return  # the libraries' finding says so
    if version.endswith("+cpu") and shutil.which("nvidia-smi"):
        advice = "Install another build of torch: https://pytorch.org/get-started/locally"
        yield Finding(
            "device", "warning", f"torch {version} computes on the CPU only, and an NVIDIA driver is here", advice
        )
    else:
        yield Finding("device", "ok", f"torch {version}, not imported: --devices asks it")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a build for another machine fails in its own ways
        advice = "Install torch anew: https://pytorch.org/get-started/locally"
        yield Finding("device", "problem", f"torch cannot be imported ({type(error).__name__}: {error})", advice)
        return
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number} ({about.name}, {about.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    if len(found) == 1:
        yield from (finding for finding in _torch_build() if finding.status != "ok")
    yield Finding("device", "ok", f"torch {torch.__version__}: {', '.join(found)}")


def _home() -> Iterator[Finding]:
    from eigenbank.registry.paths import home

    try:
        folder = home().absolute()
    except EigenbankError as error:
        yield Finding("home", "problem", str(error))
        return
    there = _nearest(folder)
    advice = "Set EIGENBANK_HOME to a folder that may be written to"
    if not there.is_dir():
        yield Finding("home", "problem", f"{folder} cannot be a folder: {there} is a file", advice)
    elif (reason := _refusal(there)) is not None:
        yield Finding("home", "problem", f"{folder} cannot be written to: {reason}", advice)
    else:
        free = shutil.disk_usage(there).free
        found = f"{folder}{'' if folder.exists() else ', made when first used'}; {free / 1e9:.1f} GB free"
        yield Finding("home", "ok" if free > FEW else "warning", found, None if free > FEW else "Make room on the disk")


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of those above it."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _refusal(folder: Path) -> str | None:
    """Why no file can be made in a folder, None where one can: what is made has gone when this returns."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _catalog() -> Iterator[Finding]:
    from eigenbank.registry.catalog.disk import check_folder
    from eigenbank.registry.catalog.peek import peek
    from eigenbank.registry.catalog.place import SCHEMA_VERSION, check_parent, is_named, locate

    try:
        place = locate(None)
        if isinstance(place, Path) and is_named(None):
            check_parent(place)
        if isinstance(place, Path) and place.parent.is_dir():
            check_folder(place.parent)
        seen = peek(place)
    except EigenbankError as error:
        yield Finding("catalog", "problem", str(error))
        return
    where = place if isinstance(place, Path) else place.render_as_string(hide_password=True)
    reason = _refusal(_nearest(place.parent)) if seen.schema is None and isinstance(place, Path) else None
    if reason is not None:
        advice = "Set EIGENBANK_CATALOG, or EIGENBANK_HOME, to a place that may be written to"
        yield Finding("catalog", "problem", f"none at {where}, and none can be made there: {reason}", advice)
    elif seen.schema is None:
        yield Finding("catalog", "ok", f"none at {where} yet", "Made when first used: eigenbank list")
    elif seen.older:
        found = f"{where}, schema {seen.schema} of {SCHEMA_VERSION}"
        yield Finding("catalog", "ok", found, "Brought up to date when next opened, a copy kept: eigenbank list")
    else:
        held = "" if seen.models is None else f": {seen.models:,} models, {seen.directions:,} directions"
        yield Finding("catalog", "ok", f"{where}, schema {seen.schema}{held}")


def _cache() -> Iterator[Finding]:
    from eigenbank.registry.hub.location import cache_root, cached_commits
    from eigenbank.registry.paths import home

    root = cache_root()
    try:
        count = len({at.repo for at in cached_commits()}) if root.is_dir() else 0
        yield Finding("cache", "ok", f"{root}: sets of {count} repositories" if root.is_dir() else f"{root}, empty")
        damaged = home() / "quarantine"
        kept = list(damaged.iterdir()) if damaged.is_dir() else []
    except (OSError, EigenbankError) as error:
        yield Finding("cache", "problem", f"{root} cannot be read ({error})", "Check its permissions, or set HF_HOME")
        return
    if kept:
        found = f"{len(kept)} damaged files from the Hub in {damaged}"
        yield Finding("quarantine", "warning", found, "eigenbank verify --all --repair, then delete the folder")


def _hub(seconds: float) -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    from eigenbank.registry.hub.errors import explain, offline
    from eigenbank.registry.hub.remote import answers

    endpoint = constants.ENDPOINT
    if offline():
        yield Finding("hub", "ok", f"{endpoint} not asked: offline mode is on (HF_HUB_OFFLINE or --offline)")
        return
    login = "a login is set" if get_token() else "not logged in; to publish: hf auth login"
    begun = time.perf_counter()
    try:
        answers(seconds)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        _, reason, advice = known
        yield Finding("hub", "warning", f"{endpoint}: {reason}", f"{advice}. What is on this machine works without it")
        return
    took = 1000 * (time.perf_counter() - begun)
    yield Finding("hub", "ok", f"{endpoint} answers in {took:.0f} ms; {login}")


def _plugins() -> Iterator[Finding]:
    from eigenbank.registry.plugins import KINDS, load_plugins

    loaded = 0
    for kind in KINDS:
        try:
            plugins = load_plugins(kind)
        except EigenbankError as error:
            yield Finding("plugins", "problem", str(error))
            continue
        for plugin in plugins:
            loaded += plugin.problem is None
            if plugin.problem is not None:
                found = f"{plugin.name} of {plugin.owner} skipped: {plugin.problem}"
                yield Finding("plugins", "warning", found, f"Update it, or: pip uninstall {plugin.owner}")
    yield Finding("plugins", "ok", f"{loaded} loaded (eigenbank plugins lists them)")
