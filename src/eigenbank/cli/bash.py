"""Completion in bash: words with blanks are escaped, nothing is put behind an `=`, and words of which bash knows only a
part are completed whole.

click's own script has bash split the line, which it does at `=`, `:` and `@` too, and offers words as they are, each
followed by a blank.
"""

import os
import re
from typing import TYPE_CHECKING, Any

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

if TYPE_CHECKING:
    Item = CompletionItem[Any]
else:
    Item = CompletionItem  # generic only in newer releases of click

_SOURCE = r"""
%(complete_func)s() {
    local IFS=$'\n' response completion type value
    response=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    for completion in $response; do
        type=${completion%%%%,*}
        value=${completion#*,}
        case $type in
            dir) compopt -o plusdirs ;;
            file) compopt -o default ;;
            open) COMPREPLY+=("$value"); compopt -o nospace ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_MARK = "\x00"
_BREAKS = "=:@"
_SPECIAL = re.compile(r"[^\w@%+=:,./#~-]")


class Bash(BashComplete):
    """What bash is told, and what it is offered."""

    source_template = _SOURCE
    _quote = ""
    _behind = 0
    _ours = False
    """Whether it is our script that asks, not click's, evaluated before an update."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words of the line before the one that is begun, and that one, without its quotes and escapes."""
        if "COMP_LINE" not in os.environ:
            return super().get_completion_args()
        line = os.environ["COMP_LINE"]
        self._ours = True
        # The mark stands for what is still to be typed: it shows whether the last word has ended.
        words = split_arg_string(line + _MARK)
        begun = words[-1].removesuffix(_MARK)
        self._quote = _open_quote(line)
        if not self._quote:
            breaks = [sign for sign in _BREAKS if sign in os.environ.get("COMP_WORDBREAKS", _BREAKS)]
            last = max((begun.rfind(sign) for sign in breaks), default=-1) + 1
            # An option's value is offered without `--option=`.
            option = begun.find("=") + 1 if begun.startswith("-") else 0
            self._behind = max(last - option, 0)
        return words[1:-1], begun

    def format_completion(self, item: Item) -> str:
        """A line of the answer: the type (`open` where more of the word follows), and what bash puts in."""
        if not self._ours:
            return super().format_completion(item)
        kind = "open" if item.type == "plain" and item.value.endswith(("=", "#")) else item.type
        value = item.value[self._behind :]
        if self._quote == '"':
            value = re.sub(r'(["$`\\])', r"\\\1", value)
        elif not self._quote:
            value = _SPECIAL.sub(r"\\\g<0>", value)
        return f"{kind},{value}"


def _open_quote(line: str) -> str:
    """The quote that is not closed at the end of a line; empty where none is."""
    quote, escaped = "", False
    for sign in line:
        if escaped:
            escaped = False
        elif sign == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
    return quote


add_completion_class(Bash)
