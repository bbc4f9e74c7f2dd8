"""Fill the tables of docs/evaluation.md from benchmarks/results: `python docs/tools/evaluation.py`, `--check` in CI."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eigenbank.registry.sets.direction_set import LEAST_REACH

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evaluation.md"
METHODS = (
    "eigenvectors",
    "random unit vectors",
    "bottom eigenvectors",
    "eigenvectors of an untrained copy",
    "eigenvectors of Gaussian matrices",
    "PCA of h-space",
    "Jacobian of h-space",
    "composites of eigenvectors, 8 parts",
    "composites of random unit vectors, 8 parts",
    "composites of eigenvectors of an untrained copy, 8 parts",
    "composites of eigenvectors, 32 parts",
    "composites of eigenvectors of an untrained copy, 32 parts",
)
STEERING = (
    "one direction",
    "16 directions over 4 layers",
    "16 directions, scheduled, a scale per sample",
    "a second pass, as classifier-free guidance has (NoiseCLR, Asyrp)",
    "an unfused LoRA of rank 4 (Concept Sliders)",
)


def results(name: str) -> Any:
    """One benchmark's results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(value: Sequence[float]) -> str:
    """A figure and the percentiles around it."""
    return f"{value[0]:.2f} ({value[1]:.2f}–{value[2]:.2f})"


def quality() -> str:
    rows = {row["method"]: row for row in results("quality")["rows"]}
    return table(
        ["method", "covered", "picked", "effect", "selectivity", "passes"],
        (
            [
                name,
                spread(rows[name]["covered"]),
                f"{rows[name]['picked'][0]:.2f}",
                spread(rows[name]["effect"]),
                f"{rows[name]['selectivity'][0]:.2f}",
                f"{rows[name]['evaluations']:,}",
            ]
            for name in METHODS
        ),
    )


def recipes() -> str:
    columns = []
    for name in ("recipes", "recipes-dit"):
        found: dict[tuple[str, str], str] = {}
        for row in results(name)["rows"]:
            found[row["recipe"], row["vectors"]] = f"{row['effect'][0]:.2f}, {row['covered'][0]:.0f}"
        columns.append(found)
    shown = [key for key in columns[0] if key in columns[1] and key[1] in ("top", "random")]
    return table(
        ["recipe", "U-Net: effect, covered", "random", "DiT: effect, covered", "random"],
        (
            [
                f"`{name}`",
                columns[0][name, "top"],
                columns[0][name, "random"],
                columns[1][name, "top"],
                columns[1][name, "random"],
            ]
            for name, kind in shown
            if kind == "top"
        ),
    )


def names() -> str:
    held = results("labels")["held"]
    agree = [row["sign_agreement"] for row in held]
    off = max(abs(row["effect"] - row["stated_effect"]) for row in held)
    return (
        f"Each of the {len(held)} names was tried at ±1 on 500 seeds that nothing else used: its score moves the right way on {min(agree):.1%} to "
        f"{max(agree):.1%} of them, and its effect ({min(row['effect'] for row in held):.2f} to {max(row['effect'] for row in held):.2f}) differs from "
        f"what the set says by at most {off:.2f}."
    )


def confidence() -> str:
    return table(
        ["confidence", "pairs", "same label"],
        (
            [f"{row['from']:.2f}–{row['to']:.2f}", str(row["pairs"]), f"{row['same']:.0%}"]
            for row in results("labels")["calibration"]
        ),
    )


def reruns() -> str:
    found = results("labels")
    rerun = found["reruns"][0]
    again, all_names = len(rerun["found_again"]), len(rerun["texts"])
    untrained = found["untrained"]
    return (
        f"Labelled again blind, on other seeds, {again} of {all_names} names come back. An untrained copy of the checkpoint gets "
        f"{len(untrained['labels'])} labels on {untrained['directions']} directions."
    )


def inversion() -> str:
    def method(row: dict[str, Any]) -> str:
        return (
            "diffusers' DDIMInverseScheduler" if row["repeats"] is None else f"eigenbank, {row['repeats']} corrections"
        )

    return table(
        ["steps", "inversion", "error", "worst", "noise", "passes"],
        (
            [
                str(row["steps"]),
                method(row),
                f"{row['error']:.4f}",
                f"{row['worst']:.4f}",
                f"{row['noise_std']:.2f}",
                str(row["passes"]),
            ]
            for row in results("inversion")["rows"]
            if row["steps"] == 20
        ),
    )


def steering() -> str:
    overhead = results("steering")["overhead"]
    return table(["edit", "time"], ([name, f"{overhead[name]:.2f}"] for name in STEERING))


def terrain() -> str:
    rows = results("terrain")["rows"]
    random = {row["recipe"]: row["changes"] for row in rows if row["method"] == "random unit vectors"}

    def ahead(row: dict[str, Any]) -> str:
        pairs = list(zip(row["changes"], random[row["recipe"]], strict=True))
        return (
            ""
            if row["method"] == "random unit vectors"
            else f"{sum(one > other for one, other in pairs)} of {len(pairs)}"
        )

    return table(
        ["recipe", "directions", "effect", "changes more than random, layers", "selectivity", "like the condition"],
        (
            [f"`{row['recipe']}`", row["method"], spread(row["effect"]), ahead(row), f"{row['selectivity'][0]:.2f}", f"{row['like_the_condition']:.2f}"]
            for row in rows
        ),
    )  # fmt: skip


def reach() -> str:
    models = {name: each["rows"] for name, each in results("reach")["models"].items()}
    correlations = {name: each["correlation"] for name, each in results("reach")["models"].items()}
    found = results("terrain")["reach"]
    models["height maps"], correlations["height maps"] = found["layers"], found["correlation"]

    def row(name: str, weak: bool) -> Sequence[str]:
        some = [each for each in models[name] if each["recipe"] == "output-value"]
        part = [each for each in some if (each["reach"] < LEAST_REACH) == weak]
        span = [
            f"{min(each[key] for each in part):.2g} to {max(each[key] for each in part):.2g}"
            for key in ("reach", "change")
        ]
        return [name, str(len(part)), *span, "" if weak else f"{correlations[name]['those that act']:.2f}"]

    kinds = [(name, weak) for name in models for weak in (False, True)]
    shown = [pair for pair in kinds if any((each["reach"] < LEAST_REACH) == pair[1] for each in models[pair[0]])]
    overall = f"Over all {len(models['height maps']) // 2} layers of the height maps' model the rank correlation is {correlations['height maps']['output-value']:.2f}."
    return (
        table(["model", "layers", "reach", "change", "rank correlation"], (row(*pair) for pair in shown))
        + f"\n\n{overall}"
    )


def lens() -> str:
    found = results("lens")
    most = len(found["words"])
    return table(
        ["way", "pictures", f"right of {most}", "moved", "rank", "leads", "purity", "effect"],
        (
            [
                row["way"],
                str(row["pictures"]),
                str(row["right"]),
                str(row["clear"]),
                f"{row['rank']:g}",
                str(row["leads"]),
                f"{row['purity']:.2f}",
                f"{row['effect']:.2f}",
            ]
            for row in found["rows"]
        ),
    )


LEADERBOARD = {
    "effect": "effect", "selectivity": "selectivity", "consistency": "one sign", "asymmetry": "even : odd", "half_scale": "at half the scale",
    "kept": "kept outside", "passes": "passes to obtain",
}  # fmt: skip


def leaderboard() -> str:
    rows = results("leaderboard")["rows"]

    def row(method: str) -> Sequence[str]:
        mine = [each for each in rows if each["method"] == method]
        means = {key: sum(each[key] for each in mine) / len(mine) for key in LEADERBOARD}
        leads = sum(each["leads"] for each in mine)
        return [
            method,
            *(f"{means[key]:,.0f}" if key == "passes" else f"{means[key]:.2f}" for key in LEADERBOARD),
            f"{leads} of {len(mine)}",
        ]

    methods = dict.fromkeys(each["method"] for each in rows)
    return table(["way", *LEADERBOARD.values(), "words led"], (row(each) for each in methods))


TABLES = {
    each.__name__: each
    for each in (quality, recipes, names, confidence, reruns, lens, inversion, steering, terrain, reach, leaderboard)
}


def filled(page: str) -> str:
    """The page with every marked table made anew."""

    def made(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", made, page, flags=re.DOTALL)


def main() -> int:
    """Write the page, or say whether it is as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page differs")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old)
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        sys.stderr.write(f"{PAGE} does not agree with benchmarks/results: run python docs/tools/evaluation.py\n")
    return int(check and new != old)


if __name__ == "__main__":
    sys.exit(main())
