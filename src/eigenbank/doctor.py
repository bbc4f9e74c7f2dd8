"""Check this installation, for `eigenbank doctor`. Nothing is created, changed or updated."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from eigenbank.schemas.errors import EigenbankError

LITTLE = 512 * 2**20
"""Warn below this much free disk, in bytes: a large checkpoint's set takes some dozen megabytes."""

HUB_SECONDS = 3.0
"""How long the Hub may take to answer."""


@dataclass(frozen=True)
class Finding:
    """What one check found. A `problem` keeps eigenbank from working, a `warning` part of it; `advice` is what to do."""

    check: str
    status: Literal["ok", "warning", "problem"]
    found: str
    advice: str | None = None


def examine() -> Iterator[Finding]:
    """Run every check, in a fixed order."""
    yield from _program()
    yield from _libraries()
    yield from _devices()
    yield from _home()
    yield from _catalog()
    yield from _cache()
    yield from _hub()
    yield from _plugins()


def _program() -> Iterator[Finding]:
    import eigenbank

    yield Finding("eigenbank", "ok", f"{eigenbank.__version__}, in {Path(eigenbank.__file__).parent}")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable}); {system}")


def _libraries() -> Iterator[Finding]:
    """Check that the packages eigenbank needs are there, in the right versions, and list the extras."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("eigenbank") or []]
        extras = metadata.metadata("eigenbank").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        advice = "Install the package: pip install -e . where its pyproject.toml is"
        yield Finding("libraries", "warning", "the package is not installed: what it needs is not known", advice)
        return

    def of(extra: str) -> list[Requirement]:
        return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]

    needed = of("")
    found = ", ".join(f"{one.name} {_version(one.name)}" if _version(one.name) else f"no {one.name}" for one in needed)
    wrong = [f"'{one.name}{one.specifier}'" for one in needed if not _fits(one.name, str(one.specifier))]
    yield Finding("libraries", "problem" if wrong else "ok", found, f"pip install {' '.join(wrong)}" if wrong else None)
    there = [name for name in extras if all(_fits(one.name, str(one.specifier)) for one in of(name))]
    missing = [name for name in extras if name not in there]
    found = f"{', '.join(there) or 'none'}; not installed: {', '.join(missing) or 'none'}"
    yield Finding("extras", "ok", found, "pip install 'eigenbank[NAME]'" if missing else None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _fits(package: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    version = _version(package)
    return version is not None and SpecifierSet(wanted).contains(version, prereleases=True)


def _devices() -> Iterator[Finding]:
    """List what torch computes on, which takes the seconds of its import."""
    version = _version("torch")
    if version is None:
        return  # among the libraries
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
    if version.endswith("+cpu") and shutil.which("nvidia-smi"):
        advice = "Install another build of torch: https://pytorch.org/get-started/locally"
        yield Finding("device", "warning", f"torch {version} is a CPU build, but there is an NVIDIA driver", advice)
    else:
        yield Finding("device", "ok", f"torch {version}: {', '.join(found)}")


def _home() -> Iterator[Finding]:
    from eigenbank.registry.files import home

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
        found = f"{folder}{'' if folder.exists() else ', created on first use'}; {free / 1e9:.1f} GB free"
        yield Finding(
            "home", "ok" if free > LITTLE else "warning", found, None if free > LITTLE else "Make room on the disk"
        )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest existing one above it."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _refusal(folder: Path) -> str | None:
    """Try to create a file in a folder, and remove it. Returns why that failed, or None."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _catalog() -> Iterator[Finding]:
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import stats
    from eigenbank.registry.catalog.database import check_folder, locate

    try:
        with Catalog.open() as catalog:
            where, place = catalog.place, locate(None)
            if isinstance(place, Path) and place.parent.is_dir():
                check_folder(place.parent)
            held = stats(catalog)
    except EigenbankError as error:
        yield Finding("catalog", "problem", str(error))
        return
    missing = isinstance(place, Path) and not place.exists()
    reason = _refusal(_nearest(place.parent)) if isinstance(place, Path) and missing else None
    if reason is not None:
        advice = "Set EIGENBANK_CATALOG, or EIGENBANK_HOME, to a place that may be written to"
        yield Finding("catalog", "problem", f"none at {where}, and none can be created there: {reason}", advice)
    elif missing:
        yield Finding("catalog", "ok", f"none at {where} yet", "The first change creates it")
    else:
        counts = f"{held['models']:,} models, {held['directions']:,} directions"
        yield Finding("catalog", "ok", f"{where}, version {held['catalog_version']}: {counts}")


def _cache() -> Iterator[Finding]:
    from eigenbank.registry.files import home
    from eigenbank.registry.hub.client import cache_root, cached_commits

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
        yield Finding("quarantine", "warning", found, "eigenbank verify --repair, then delete the folder")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    from eigenbank.registry.hub.client import explain_error, offline, ping

    endpoint = constants.ENDPOINT
    if offline():
        yield Finding("hub", "ok", f"{endpoint} not asked: offline mode is on (HF_HUB_OFFLINE or --offline)")
        return
    login = "a login is set" if get_token() else "not logged in; to publish: hf auth login"
    begun = time.perf_counter()
    try:
        ping(HUB_SECONDS)
    except Exception as error:
        known = explain_error(error)
        if known is None:
            raise
        _, reason, advice = known
        yield Finding("hub", "warning", f"{endpoint}: {reason}", f"{advice}. What is on this machine works without it")
        return
    took = 1000 * (time.perf_counter() - begun)
    yield Finding("hub", "ok", f"{endpoint} answers in {took:.0f} ms; {login}")


def _plugins() -> Iterator[Finding]:
    """List the plugins of every kind, ours among them, and warn of each that was skipped."""
    from eigenbank.registry.plugins import KINDS, load_plugins

    for kind in KINDS:
        try:
            plugins = load_plugins(kind)
        except EigenbankError as error:
            yield Finding(kind, "problem", str(error))
            continue
        loaded = ", ".join(f"{one.name} ({one.owner})" for one in plugins if one.problem is None) or "none"
        yield Finding(kind, "ok", loaded)
        for one in plugins:
            if one.problem is not None:
                found = f"skipped, of {one.owner}: {one.problem}"
                advice = "Mend it" if one.owner == "eigenbank" else f"Update it, or: pip uninstall {one.owner}"
                yield Finding(f"{kind}/{one.name}", "warning", found, advice)
