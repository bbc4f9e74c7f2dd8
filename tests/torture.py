"""The robustness campaign: fuzzers, faults, kills and the soak, for as long as you like.

    make torture                                  # 20 minutes; MINUTES=2 make torture
    python tests/torture.py --minutes 2 --seed 7

What each does is what the tests do, more often and with other chances. Figures go to benchmarks/results/torture.json:
inputs tried, faults injected, and whatever was lost or escaped, which should be nothing. Exit code 1 if something was.
"""

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import click  # noqa: E402
from hub.fixtures import Client, Worker  # noqa: E402
from hub.server import Hub  # noqa: E402
from hub.sets import files_of  # noqa: E402
from hub.whole import check_home  # noqa: E402
from making import make_checkpoint  # noqa: E402
from mutate import mutate_bytes, mutate_json, mutate_text  # noqa: E402
from registry import test_foreign_files as foreign  # noqa: E402
from registry.catalog import test_many_hands as hands  # noqa: E402
from registry.catalog.made import label, manifest  # noqa: E402
from registry.hub import test_faults as faults  # noqa: E402
from registry.hub import test_races as races  # noqa: E402

from eigenbank.schemas.errors import EigenbankError  # noqa: E402

RESULTS = HERE.parent / "benchmarks" / "results" / "torture.json"
SHARES = {
    "manifest": 2,
    "safetensors": 2,
    "query": 2,
    "sliders": 1,
    "plan": 1,
    "endless": 1,
    "hooks": 3,
    "answers": 3,
    "faults": 4,
    "kills": 3,
    "soak": 2,
}
"""The parts of the campaign, and how much of the time each gets."""

PLAN = """
[defaults]
recipes = ["output-value", "output-value:output@0.3-1"]
top_k = 4

[[checkpoint]]
id = "acme/faces"
layers = ["mid_block.*"]

[[checkpoint]]
id = "acme/cars"
revision = "main"
"""


@dataclass
class Figures:
    """What a part did. `refused` and `accepted` count inputs, `escaped` errors that are none of ours, `lost` broken promises."""

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    escaped: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def try_one(self, what: str, run: Callable[[], object]) -> None:
        """Run once: EigenbankError is a refusal, AssertionError a loss, anything else an escape."""
        self.tried += 1
        try:
            run()
            self.accepted += 1
        except EigenbankError as error:
            self.refused += 1
            said = str(error)
            if len(said) > 12_000 or not said.replace("\n  ", "").isprintable():
                self.lost.append(f"{what}: a terminal would be told {said[:300]!a}")
        except AssertionError:
            self.lost.append(f"{what}: {traceback.format_exc(limit=-2)[-600:]}")
        except Exception:  # what must not happen, whatever it is
            self.escaped.append(f"{what}: {traceback.format_exc(limit=-2)[-600:]}")


@dataclass
class Ground:
    """What the parts work on: a folder of their own, a set, a source of chance, and when to stop."""

    folder: Path
    set: Path
    chance: random.Random
    until: float

    def going(self) -> Iterator[int]:
        """Counts until the time is up; once at least."""
        number = 0
        while number == 0 or time.monotonic() < self.until:
            yield number
            number += 1


def fuzz_manifest(ground: Ground, figures: Figures) -> None:
    """Manifests with values, keys and bytes changed: read, and checked as a stranger's set is."""
    from eigenbank.registry.sets.folder import MANIFEST, check_manifest, check_vectors, read_manifest

    folder = Path(shutil.copytree(ground.set, ground.folder / "manifest"))
    text = (folder / MANIFEST).read_bytes()
    for number in ground.going():
        changed = mutate_json(text, ground.chance) if number % 3 else mutate_bytes(text, ground.chance)
        (folder / MANIFEST).write_bytes(changed)

        def read() -> None:
            found = read_manifest(folder)
            check_manifest(found, "a fuzzed set")
            check_vectors(found, folder)

        figures.try_one(f"manifest {number}", read)


def fuzz_safetensors(ground: Ground, figures: Figures) -> None:
    """Vectors' files with their headers and bytes changed: read, and their rows checked."""
    from safetensors import safe_open

    from eigenbank.registry.sets.folder import VECTORS
    from eigenbank.registry.sets.tensors import check_unit_rows, read_header

    path = ground.folder / "fuzzed.safetensors"
    data = (ground.set / VECTORS).read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    for number in ground.going():
        if number % 2:
            head = mutate_json(data[8:length], ground.chance)
            changed = len(head).to_bytes(8, "little") + head + data[length:]
        else:
            changed = mutate_bytes(data[:length], ground.chance) + data[length:]
        path.write_bytes(changed)

        def read() -> None:
            read_header(path)
            with safe_open(path, "numpy") as theirs:  # what is accepted here must be so there
                theirs.keys()
            check_unit_rows(path)

        figures.try_one(f"safetensors {number}", read)


def fuzz_query(ground: Ground, figures: Figures) -> None:
    """Searches for any text, with any filters, in a catalog that must stay sound."""
    from eigenbank.registry.catalog import Catalog
    from eigenbank.registry.catalog.care import verify

    mid = "mid_block.attentions.0/value/0"
    words = [
        "smile",
        '"long hair"',
        "mid_block",
        "smile -hat",
        "a*b",
        "[x",
        "OR",
        "NEAR(",
        '"',
        "%",
        "ſ",
        "İ",
        "\x00",
        "😀",
    ]
    with Catalog.open(ground.folder / "query.db", shipped=False) as catalog:
        catalog.add_set(manifest("acme/faces", {mid: [label("long hair", 0.5)]}), location="/x", digest="x")
        for _ in ground.going():
            text = mutate_text(" ".join(ground.chance.choices(words, k=ground.chance.randrange(1, 5))), ground.chance)
            more: dict[str, Any] = {}
            for name in ("model", "layer", "cursor", "source"):
                if ground.chance.random() < 0.2:
                    more[name] = mutate_text(ground.chance.choice(words), ground.chance)
            figures.try_one(f"search {text!r} {more!r}", lambda text=text, more=more: catalog.search(text, **more))  # type: ignore[misc]
        figures.try_one("the catalog afterwards", lambda: _sound(verify(catalog) == []))


def _sound(whole: bool) -> None:
    assert whole, "the catalog is damaged"


def fuzz_sliders(ground: Ground, figures: Figures) -> None:
    """Sliders files with values, keys and bytes changed."""
    from eigenbank.registry.sliders import read_sliders

    text = json.dumps(
        {"format": 1, "model": "a/b", "sliders": [{"key": "x", "scale": 1.0, "window": {"start": 0, "end": 0.5}}]}
    ).encode()
    path = ground.folder / "sliders.json"
    for number in ground.going():
        path.write_bytes(mutate_json(text, ground.chance) if number % 3 else mutate_bytes(text, ground.chance))
        figures.try_one(f"sliders {number}", lambda: read_sliders(path))


def fuzz_plan(ground: Ground, figures: Figures) -> None:
    """Plan files with lines and bytes changed."""
    from eigenbank.plans.files import read_plan

    lines = PLAN.splitlines(keepends=True)
    read_plan(_written(ground.folder / "whole.toml", PLAN))
    path = ground.folder / "plan.toml"
    for number in ground.going():
        text = [mutate_text(line, ground.chance) if ground.chance.random() < 0.3 else line for line in lines]
        data = "".join(text).encode("utf-8", "replace")
        path.write_bytes(mutate_bytes(data, ground.chance) if number % 3 == 0 else data)
        figures.try_one(f"plan {number}", lambda: read_plan(path))


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def open_endless(ground: Ground, figures: Figures) -> None:
    """Pipes, devices, sockets, folders and files of /proc where a file is expected, given to every reader."""
    readers = foreign.READERS
    kinds = [
        "pipe",
        "/dev/zero",
        "/dev/urandom",
        "/proc/kmsg",
        "/proc/self/mem",
        "/proc/self/pagemap",
        "folder",
        "socket",
        "loop",
    ]
    path = ground.folder / "x.json"
    for number in ground.going():
        reader, kind = ground.chance.choice(list(readers)), ground.chance.choice(kinds)
        listening = socket.socket(socket.AF_UNIX)
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "socket":
                listening.bind(str(path))
            case "loop":
                path.symlink_to(path)
            case _:
                path.symlink_to(kind)

        def read(reader: str = reader) -> None:
            try:
                readers[reader](path)
            except click.BadParameter as error:  # a wrong call: refused
                raise EigenbankError(error.message) from error
            except OSError as error:
                if reader != "open_file":  # whose caller has looked whether it is a file
                    raise
                raise EigenbankError(str(error)) from error

        figures.try_one(f"{reader} of {kind} {number}", read)
        listening.close()
        path.rmdir() if kind == "folder" else path.unlink()


def change_hooks(ground: Ground, figures: Figures) -> None:
    """Hooks, LoRAs, offload and the edit itself put on and taken off at random while pictures are drawn: each is what it should be."""
    from loaders import test_survive as survive

    expected = survive.expected_pictures()
    for _ in ground.going():
        seed = ground.chance.randrange(2**32)
        figures.try_one(
            f"hooks {seed}",
            lambda seed=seed: survive.test_hooks_put_on_and_taken_off_at_random_leave_edits_and_pictures_alone(
                seed, expected
            ),
        )  # type: ignore[misc]


def fuzz_answers(ground: Ground, figures: Figures) -> None:
    """A Hub whose answers are garbled: pull, sync and publish end with a message, and nothing false is kept."""
    with Hub() as hub, Worker(Client(hub, ground.folder / "answers")) as worker:
        repo = "me/faces-directions"
        for number in ground.going():
            worker.empty()
            hub.mend()
            hub.store.repos.clear()
            commit = hub.put(repo, files_of(ground.set))
            seed = ground.chance.randrange(2**32)
            command = (
                ("pull", repo),
                ("pull", "acme/faces"),
                ("sync",),
                ("publish", str(ground.set), "--repo", "me/new"),
            )[number % 4]

            def garble(body: bytes, seed: int = seed) -> bytes:
                chance = random.Random(f"{seed} {len(body)}")
                return (
                    mutate_json(body, chance)
                    if body[:1] in b"{[" and chance.random() < 0.7
                    else mutate_bytes(body, chance)
                )

            hub.fault(ground.chance.choice(["info", "list", "*", "preupload", "commit"]), "garbled", garble=garble)

            def run(command: tuple[str, ...] = command, commit: str = commit) -> None:
                done = worker.run(*command)
                assert done.code in (0, 1), f"{command}: {done.err[-500:]}"
                # Whatever was said, nothing stands in the way of the truth.
                hub.mend()
                after = worker.run("pull", repo)
                assert after.code == 0, f"{command}, then pull: {after.err[-500:]}"
                assert ("acme/faces", repo, commit) in check_home(worker.client.home)
                if done.code:
                    raise EigenbankError(done.err)

            figures.try_one(f"answers {number}", run)


def inject_faults(ground: Ground, figures: Figures) -> None:
    """Every fault at every request of publish and pull, in any order; afterwards the same command finishes."""
    cases = [
        *[(faults.test_a_fault_while_publishing, (kind, name)) for kind in faults.PUBLISH for name in faults.FAULTS],
        *[(faults.test_a_fault_while_pulling, (kind, name, path)) for kind in faults.PULL for name in faults.FAULTS
          for path in ("*", "directions.safetensors")],
        *[(faults.test_a_fault_while_looking_for_a_model, (kind, name)) for kind in faults.FIND for name in faults.FAULTS],
    ]  # fmt: skip
    ground.chance.shuffle(cases)
    with Hub() as hub, Worker(Client(hub, ground.folder / "faults")) as worker:
        for number in ground.going():
            test, arguments = cases[number % len(cases)]
            worker.empty()
            hub.mend()
            hub.store.repos.clear()
            hub.store.large.clear()
            hub.forget()
            figures.try_one(
                f"{test.__name__}{arguments}",
                lambda test=test, arguments=arguments: test(*arguments, ground.set, worker),
            )  # type: ignore[misc]
    figures.more["kinds of fault at a request"] = len(cases)


def kill(ground: Ground, figures: Figures) -> None:
    """kill -9 of catalog writers, of a catalog's creation, and of publishes and pulls."""
    for number in ground.going():
        place = ground.folder / f"kills-{number}"
        place.mkdir()

        def make_client(name: str = "client", place: Path = place, **more: Any) -> Client:
            (place / name).mkdir(parents=True, exist_ok=True)
            return Client(hub, place / name, **more)

        hands_path = place / "catalog.db"
        figures.try_one(
            "killed writers",
            lambda path=hands_path: hands.test_a_killed_writer_leaves_the_old_state_or_the_new(path, 8),
        )  # type: ignore[misc]
        fresh = place / "fresh"
        fresh.mkdir()
        figures.try_one(
            "killed creations",
            lambda path=fresh / "catalog.db": hands.test_a_killed_creation_leaves_nothing_or_a_catalog(path),
        )  # type: ignore[misc]
        kills = 16
        if time.monotonic() < ground.until:
            with Hub() as hub:
                figures.try_one(
                    "killed publishes and pulls",
                    lambda: races.test_killed_at_any_instant_all_is_whole_and_the_same_command_finishes(
                        4, ground.set, hub, make_client
                    ),
                )
            kills += 4
        figures.more["processes killed"] = figures.more.get("processes killed", 0) + kills
        shutil.rmtree(place, ignore_errors=True)


def soak(ground: Ground, figures: Figures) -> None:
    """Sixteen processes at one catalog for all of the time."""
    seconds = max(1.0, ground.until - time.monotonic())

    def run() -> None:
        figures.more["changes by sixteen processes"] = hands.soak(ground.folder / "soak.db", seconds)

    figures.try_one("soak", run)


PARTS: dict[str, Callable[[Ground, Figures], None]] = {
    "manifest": fuzz_manifest, "safetensors": fuzz_safetensors, "query": fuzz_query, "sliders": fuzz_sliders,
    "plan": fuzz_plan, "endless": open_endless, "hooks": change_hooks, "answers": fuzz_answers, "faults": inject_faults, "kills": kill, "soak": soak,
}  # fmt: skip


def campaign(minutes: float, seed: int, parts: list[str]) -> dict[str, Figures]:
    """Run the parts one after the other, each for its share of the time."""
    found: dict[str, Figures] = {}
    # A machine of its own: no home of the user's is touched, no Hub but ours is known.
    with tempfile.TemporaryDirectory(prefix="eigenbank-torture-") as name:
        folder = Path(name)
        os.environ.update(EIGENBANK_HOME=str(folder / "home"), HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hf"))
        os.environ.pop("EIGENBANK_CATALOG", None)
        prepared = _prepare(folder)
        whole = sum(SHARES[part] for part in parts)
        for part in parts:
            begun = time.monotonic()
            figures = found[part] = Figures()
            place = folder / part
            place.mkdir()
            ground = Ground(
                place, prepared, random.Random(f"{seed} {part}"), begun + 60 * minutes * SHARES[part] / whole
            )
            PARTS[part](ground, figures)
            figures.seconds = round(time.monotonic() - begun, 1)
            shutil.rmtree(place, ignore_errors=True)
            print(line(part, figures), flush=True)
    return found


def _prepare(folder: Path) -> Path:
    """The set that tests publish, made anew."""
    from hub.sets import NOW, add_preview

    from eigenbank.builders.build import build
    from eigenbank.builders.checkpoints.folder import open_folder
    from eigenbank.registry.sets.card import preview_name
    from eigenbank.schemas import Label

    bank = build(open_folder(make_checkpoint(folder / "checkpoint")), "acme/faces", top_k=3)
    first = next(iter(bank))
    bank.labelled({first.id: (Label(text="warm smile", source="human:ann", created=NOW),)}).save(folder / "set")
    add_preview(folder / "set", preview_name(first.record))
    return folder / "set"


def line(part: str, figures: Figures) -> str:
    """A part's figures, for people."""
    more = "".join(f", {count:,} {what}" for what, count in figures.more.items())
    return (
        f"{part}: {figures.tried:,} tried in {figures.seconds:.0f} s, {figures.refused:,} refused, {figures.accepted:,} passed{more}; "
        f"{len(figures.escaped)} escaped, {len(figures.lost)} lost"
    )


def page(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "# The robustness campaign",
        "",
        f"`make torture`, here with {document['minutes']:g} minutes and seed {document['seed']}: {document['machine']}, load "
        f"{document['load_before']:.1f} before; commit {document['commit'][:12]}, {document['date']}. Refused: an error of ours, in words. Escaped: any other exception. Lost: a broken promise (a catalog that is "
        "not sound, a set that is not whole, a command that does not finish when run again).",
        "",
        "| part | tried | refused | passed | escaped | lost | seconds | besides |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, found in document["parts"].items():
        more = ", ".join(f"{count:,} {noun}" for noun, count in found["more"].items())
        lines.append(
            f"| {name} | {found['tried']:,} | {found['refused']:,} | {found['accepted']:,} | {len(found['escaped'])} | "
            f"{len(found['lost'])} | {found['seconds']:.0f} | {more} |"
        )
    lines += ["", *(f"- **{name}**: {' '.join((PARTS[name].__doc__ or '').split())}" for name in document["parts"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=20.0, help="for all of it together [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the chances [0]")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown or not 0 < args.minutes <= 20:
        parser.error(f"no part {', '.join(sorted(unknown))}" if unknown else "--minutes is more than 0 and at most 20")
    load = os.getloadavg()[0]
    found = campaign(args.minutes, args.seed, args.parts or list(PARTS))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    document = {
        "what": "robustness campaign", "minutes": args.minutes, "seed": args.seed, "load_before": load,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version(),
        "commit": commit.stdout.strip(), "date": datetime.date.today().isoformat(),
        "inputs": sum(found[part].tried for part in found if part not in ("hooks", "faults", "kills", "soak")),
        "faults": sum(found[part].tried for part in found if part == "faults"),
        "kills": sum(figures.more.get("processes killed", 0) for figures in found.values()),
        "escaped": sum(len(figures.escaped) for figures in found.values()),
        "lost": sum(len(figures.lost) for figures in found.values()),
        "parts": {part: vars(figures) for part, figures in found.items()},
    }  # fmt: skip
    args.out.write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    print(
        f"{document['inputs']:,} inputs, {document['faults']:,} faults, {document['kills']:,} kills: "
        f"{document['escaped']} escaped, {document['lost']} lost → {args.out}"
    )
    print(page(document))
    for figures in found.values():
        for text in [*figures.escaped, *figures.lost][:5]:
            print(text, file=sys.stderr)
    return 1 if document["escaped"] or document["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
