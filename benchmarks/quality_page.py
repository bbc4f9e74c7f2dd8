"""The figures of benchmarks/quality.py as Markdown: its table, what it says in words, and its pictures, from the document of benchmarks/quality.py."""

from pathlib import Path
from typing import Any

from ways import BOTTOM, GAUSSIAN, OURS, RANDOM, UNTRAINED

COMPARED = ("covered", "reach", "picked", "effect", "selectivity")
SHOWN = (
    "covered", "reach", "picked", "sliders", "effect", "best", "selectivity", "consistency", "linearity", "disentanglement",
)  # fmt: skip


def _cell(value: Any) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f}–{value[2]:.2f})" if isinstance(value, list) else f"{value:.3g}"


def as_markdown(document: dict[str, Any], legend: str) -> str:
    """The figures of a run as Markdown; `legend` says what the columns are."""
    head = ("method", *SHOWN, "misfit", "evaluations", "seconds")
    draws = "once" if document["draws"] == 1 else f"{document['draws']} times"
    where = document["about"]["accelerator"] or "the processor"
    lines = [
        "# Eigen-directions against chance, and against methods that sample",
        "",
        f"Measured on the cartoon faces by `python benchmarks/quality.py --seeds {document['seeds']} --find "
        f"{document['find']} --draws {document['draws']}` on {where}: {document['rows'][0]['directions']} directions of every "
        f"method, {document['seeds']} seeds, {document['steps']} DDIM steps, all at the same length relative to what they are "
        "added to; the eigenvectors are the default recipe's, `output-value`. In brackets the 5th and 95th percentile over "
        "resamples of the seeds, and of the draws.; `make bench-quality` runs it with fewer seeds.",
        "",
        legend.format(
            factors=document["factors"], unedited=document["misfit_unedited"], find=document["find"], draws=draws
        ),
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(
            f"| {row['method']} | "
            + " | ".join(_cell(row[name]) for name in head[1:-2])
            + f" | {row['evaluations']:,} | {'' if row['seconds'] is None else format(row['seconds'], '.1f')} |"
            for row in document["rows"]
        ),
        "",
        "![Factors covered, picked and effect of every method](quality.png)",
        "",
        "How many factors are covered, whatever least effect is demanded:",
        "",
        "![Factors covered by the effect that is demanded](quality-reach.png)",
        "",
        "## Of fewer directions",
        "",
        "The first of each layer:",
        "",
        "| of each layer | method | " + " | ".join(COMPARED) + " |",
        "|---|---|" + "---|" * len(COMPARED),
        *(
            f"| {count} | {name} | " + " | ".join(_cell(row[key]) for key in COMPARED) + " |"
            for count, methods in document["first"].items()
            for name, row in methods.items()
        ),
        "",
        *findings(document),
        "",
    ]
    return "\n".join(lines)


def findings(document: dict[str, Any]) -> list[str]:
    """What the table says, in words, worked out from its rows and their differences."""
    by_name = {row["method"]: row for row in document["rows"]}
    lines = [
        "## In words",
        "",
        "Differences over the same resamples for both; *more* and *less* where the 5th and the 95th percentile of the "
        "difference have one sign.",
        "",
    ]
    for each in document["differences"]:
        said = []
        for name in COMPARED:
            _, low, high = each[name]
            word = "more" if low > 0 else "less" if high < 0 else "not told apart"
            value, theirs = by_name[each["one"]][name][0], by_name[each["other"]][name][0]
            said.append(f"{name} {value:.2f} against {theirs:.2f} ({word}, {low:+.2f} to {high:+.2f})")
        lines.append(f"- {each['one'].capitalize()} against {each['other']}: {', '.join(said)}.")
    lines += ["", "What it took to get them, in evaluations of the denoiser: none for the eigenvectors; "]
    costs = {
        "composites and what is turned" if _made_of(row["method"]) else row["method"]: row["evaluations"]
        for row in document["rows"]
        if row["evaluations"]
    }
    lines[-1] += "; ".join(f"{passes:,} for {what}" for what, passes in costs.items()) + "."
    return lines


def _made_of(method: str) -> bool:
    return method.startswith("composites") or method.endswith(", turned")


def _ours(method: str) -> bool:
    return method in (OURS, f"{OURS}, turned") or method.startswith(f"composites of {OURS},")


def draw_bars(document: dict[str, Any], path: Path) -> None:
    """The table's most telling columns as bars with their intervals."""
    from matplotlib import pyplot

    rows = document["rows"][::-1]
    picture, axes = pyplot.subplots(1, 3, figsize=(12, 6), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("covered", "picked", "effect"), strict=True):
        values = [row[name][0] for row in rows]
        low = [row[name][0] - row[name][1] for row in rows]
        high = [row[name][2] - row[name][0] for row in rows]
        colours = [OWN if _ours(row["method"]) else GREY for row in rows]
        bounds = [[max(0.0, one) for one in low], [max(0.0, one) for one in high]]
        axis.barh([row["method"] for row in rows], values, xerr=bounds, color=colours, capsize=2)
        axis.set_title(name if name != "covered" else f"covered, of {document['factors']} factors")
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


OWN, GREY = "#0b6e4f", "#8a8f98"
CURVES = {
    "single directions": "{}", "composites of up to 8": "composites of {}, 8 parts", "composites of up to 32": "composites of {}, 32 parts",
}  # fmt: skip
"""Kinds of methods whose curves are drawn."""
LINES = {OURS: OWN, RANDOM: GREY, UNTRAINED: "#c0742b", GAUSSIAN: "#6b5ca5", BOTTOM: "#b8bcc4"}


def draw_curves(document: dict[str, Any], path: Path) -> None:
    """How many factors are covered by the least effect that is demanded: single directions, and composites."""
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(1, len(CURVES), figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (title, kind) in zip(axes, CURVES.items(), strict=True):
        for name, colour in LINES.items():
            middle, low, high = zip(*document["curves"][kind.format(name)], strict=True)
            axis.plot(document["demands"], middle, color=colour, label=name, linewidth=2 if name == OURS else 1.2)
            axis.fill_between(document["demands"], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.axvline(document["least"], color="black", linewidth=0.6, linestyle=":")
        axis.set_title(title)
        axis.set_xlabel("least effect, standard deviations per unit scale")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"factors covered, of {document['factors']}")
    axes[-1].legend(frameon=False, fontsize=8)
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
