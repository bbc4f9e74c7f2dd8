"""Complete a half-typed word in the shell: model ids, labels, layers and directions of the catalog.

Completing never creates a catalog and never fails.

bash gets a script of our own: with click's, bash splits the line at `=`, `:` and `@` too, and labels with blanks come unescaped.
Ours escapes them, adds no blank after an `=`, and completes the whole word.
"""

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from eigenbank.schemas.printable import printable

if TYPE_CHECKING:
    from eigenbank.registry.catalog import Catalog

    Item = CompletionItem[Any]
else:
    Item = CompletionItem  # generic only in newer releases of click

MOST = 200


def _offer(find: "Callable[[Catalog, click.Context, str], list[str]]", ctx: click.Context, begun: str) -> list[str]:
    from eigenbank.registry.catalog import Catalog
    from eigenbank.schemas.errors import EigenbankError

    try:
        with Catalog.open() as catalog:
            found = (word for word in find(catalog, ctx, begun) if word.startswith(begun))
            return [word for word in found if word == printable(word)][:MOST]
    except EigenbankError:
        return []


def models(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer model ids."""
    return _offer(lambda catalog, _ctx, _begun: catalog.model_ids(), ctx, incomplete)


def models_or_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer model ids and folders."""
    return [*map(CompletionItem, models(ctx, param, incomplete)), CompletionItem(incomplete, type="dir")]


def sliders(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer labels, directions and composites of the model given earlier on the line; all labels where there is none."""

    def find(catalog: "Catalog", ctx: click.Context, begun: str) -> list[str]:
        model = _model(ctx, catalog)
        names = catalog.label_texts(model)
        # Thousands of directions only once it is plain that one is meant.
        if model in catalog.model_ids() and begun and not any(name.startswith(begun) for name in names):
            names += [row.name for row in catalog.search(model=model, sort="catalog", limit=10_000)]
        return names

    return _offer(find, ctx, incomplete)


def scaled(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer what `sliders` does, each followed by `=` for its scale."""
    return [] if "=" in incomplete else [f"{name}=" for name in sliders(ctx, param, incomplete)]


def words(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer label texts."""
    return _offer(lambda catalog, ctx, _begun: catalog.label_texts(_model(ctx, catalog)), ctx, incomplete)


def layers(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer layer names."""
    return _offer(lambda catalog, ctx, _begun: catalog.layer_names(_model(ctx, catalog)), ctx, incomplete)


def recipes(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the recipes of the model given earlier, or of all."""
    return _offer(lambda catalog, ctx, _begun: catalog.recipe_slugs(_model(ctx, catalog)), ctx, incomplete)


def bounds(names: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Make a completer of these names, each followed by `=` for a number."""
    return lambda _ctx, _param, incomplete: [f"{name}=" for name in names if name.startswith(incomplete)]


def revisions(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the revisions of the model given earlier on the line."""

    def find(catalog: "Catalog", ctx: click.Context, _begun: str) -> list[str]:
        model = _model(ctx, catalog)
        return [row.revision for row in catalog.sets() if row.model_id == model and row.revision]

    return _offer(find, ctx, incomplete)


def buildable(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the recipes that `build` knows; plugins are not loaded for it."""
    from eigenbank.registry.recipes import MATRICES

    names = [
        matrix.name if side == "input" else f"{matrix.name}:{side}"
        for matrix in MATRICES.values()
        for side in matrix.sides
    ]
    return [name for name in names if name.startswith(incomplete)]


def directions(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Offer directions: first the models, then what follows the `#`."""

    def find(catalog: "Catalog", _ctx: click.Context, begun: str) -> list[str]:
        model, hash_sign, _ = begun.partition("#")
        if not hash_sign:
            return [f"{found}#" for found in catalog.model_ids()]
        if model not in catalog.model_ids():
            return []
        return [row.id for row in catalog.search(model=model, sort="catalog", limit=10_000)]

    return _offer(find, ctx, incomplete)


def _model(ctx: click.Context, catalog: "Catalog") -> str | None:
    """The model given earlier on the line."""
    given = next((ctx.params[name] for name in ("model", "first", "names") if ctx.params.get(name)), None)
    model = given[0] if isinstance(given, tuple) else given
    if model is None:  # click stops at an option that waits for its value, and has not read what stands before it
        words = split_arg_string(os.environ.get("COMP_LINE") or os.environ.get("COMP_WORDS", ""))
        known = set(catalog.model_ids())
        model = next((word for word in words[1:] if word in known), None)
    return model if isinstance(model, str) and not any(sign in model for sign in "*?[") else None


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
    """Completion for bash: the script, and the answers it gets."""

    source_template = _SOURCE
    _quote = ""
    _behind = 0
    _ours = False
    """Whether our script asks; a shell started before an update may still have click's."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the finished words of the line, and the unfinished one without quotes and escapes."""
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
        """Format one answer: its type (`open` if more of the word follows) and the text that bash inserts."""
        if not self._ours:
            return super().format_completion(item)
        kind = "open" if item.type == "plain" and item.value.endswith(("=", "#")) else item.type
        value = item.value[self._behind :]
        # A stranger's label must not end the quotes, or Enter would run what follows in it.
        if self._quote == '"':
            value = re.sub(r'(["$`\\])', r"\\\1", value).replace("!", '"\\!"')
        elif self._quote == "'":
            value = value.replace("'", "'\\''")
        elif not self._quote:
            value = _SPECIAL.sub(r"\\\g<0>", value)
        return f"{kind},{value}"


def _open_quote(line: str) -> str:
    """Return the quote that is still open at the end of a line, or an empty string."""
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
