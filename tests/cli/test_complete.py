"""Completion as bash asks for it: what it would put into the line."""

import os
import shutil
import subprocess
from pathlib import Path

import click
import forks
import pytest
from click.shell_completion import CompletionItem

from eigenbank.cli.complete import Bash

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
DEMO = "eigenbank/cartoon-faces-32"
_ASK = """
compopt() { echo "option $2"; }
eval "$(_EIGENBANK_COMPLETE=bash_source eigenbank)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
_eigenbank_completion eigenbank
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def ask(with_faces: Path):  # type: ignore[no-untyped-def]
    """Complete a line; returns what is offered, and `option NAME` for what is asked of bash."""
    environment = {**os.environ, "PATH": f"{forks.programs()}{os.pathsep}{os.environ['PATH']}"}

    def work(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", _ASK, "ask", line], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return sorted(done.stdout.splitlines())

    return work


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (f"steer {DEMO} --set sk", ["option nospace", r"skin\ tone="]),
        (f"steer {DEMO} --set skin\\ t", ["option nospace", r"skin\ tone="]),
        (f"steer {DEMO} --set 'sk", ["option nospace", "skin tone="]),
        (f"steer {DEMO} --set=sk", ["option nospace", r"skin\ tone="]),
        ("search 'head w", ["head width"]),
        ("build --recipe out", ["output-value", "output-value:output"]),
        ("build --recipe output-value:o", ["output"]),
        (f"build {DEMO} --layers mid", ["mid_block.attentions.0"]),
        ("build eigenbank/avatars-64 --layers mid", ["mid_block.attentions.0.transformer_blocks.0.attn1"]),
        ("steer eigenbank/avatars-64 --set skin", [""]),
        (f"steer --out a/b.png {DEMO} --set sk", ["option nospace", r"skin\ tone="]),
        ("build eigenbank/c", [DEMO, "option plusdirs"]),
        ("show eigenbank/c", [f"{DEMO}#", "option nospace"]),
        ("labels r", ["rm"]),
        ("search --min eff", ["effect=", "option nospace"]),
    ],
)
def test_bash_is_offered_words_that_it_can_put_in(ask, line: str, offered: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert ask(f"eigenbank {line}") == offered


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_strangers_label_stays_one_word_whatever_is_in_it(quote: str, tmp_path: Path) -> None:
    label = "a'; touch x; '\"; touch x; \"$(touch x)`touch x`!touch\\ *? é"
    bash = Bash(click.Command("eigenbank"), {}, "eigenbank", "_EIGENBANK_COMPLETE")
    bash._quote, bash._ours = quote, True
    kind, _, offered = bash.format_completion(CompletionItem(label)).partition(",")
    done = subprocess.run(
        ["bash", "--norc", "-c", f"printf %s {quote}{offered}{quote}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (kind, done.stdout, done.stderr) == ("plain", label, "")
    assert not list(tmp_path.iterdir())
