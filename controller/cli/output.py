"""How a result is printed: as a table for people, as JSON, JSON lines or YAML for programs.

Every command gives both: the items as plain dictionaries, and a table of the same. JSON and YAML
carry ``schema_version`` (each line of JSON lines, too), which rises when a key is removed or
changes its meaning; new keys do not raise it.

On a terminal a table has colours and is fitted to the width. In a pipe or a file it has neither:
columns are as wide as their content, so that ``awk`` and ``grep`` see whole words.
"""

import enum
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TextIO

from controller.cli.plain import Plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SCHEMA_VERSION = 1

_QUOTED = re.compile(r"`[^`]*`")
# Stands for a space where no line may end; nothing that is printed has it.
_NO_BREAK = "\x00"
_FOLD = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)


class Format(str, enum.Enum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Styled:
    """A cell with a Rich style, which only a terminal shows."""

    text: str
    style: str


Cell = str | Styled


@dataclass(frozen=True, slots=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    # What to say instead of a table without rows, on stderr: how to get the first one.
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One thing: its properties, a line each. A property without a value is left out."""

    fields: Sequence[tuple[str, Cell]]


def listing(noun: str, items: Sequence[Mapping[str, Plain]], table: Table, form: Format) -> None:
    """Prints several things; ``noun`` is the plural that JSON and YAML call them by."""
    if form is Format.TABLE:
        _print_table(table)
    elif form is Format.JSONL:
        for item in items:
            line(item)
    else:
        sys.stdout.write(document({noun: [dict(item) for item in items]}, form))


def record(noun: str, item: Mapping[str, Plain], card: Card, form: Format) -> None:
    """Prints one thing; ``noun`` is what JSON and YAML call it."""
    if form is Format.TABLE:
        _print_card(card)
    elif form is Format.JSONL:
        line(item)
    else:
        sys.stdout.write(document({noun: dict(item)}, form))


def whole(content: Mapping[str, Plain], form: Format) -> None:
    """Prints a document of its own form, which has no table."""
    sys.stdout.write(document(content, form))


def line(item: Mapping[str, Plain]) -> None:
    """One line of JSON lines, written through at once: the reader may be waiting for it."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **item}, ensure_ascii=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def text(line_of_text: str) -> None:
    """A line for whoever reads stdout, written through at once."""
    sys.stdout.write(line_of_text + "\n")
    sys.stdout.flush()


def heading(title: str) -> None:
    """A line above what follows; bold on a terminal."""
    is_plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    text(title if is_plain else f"\x1b[1m{title}\x1b[0m")


def document(content: Mapping[str, Plain], form: Format) -> str:
    """``content`` with its schema version: YAML, JSON on one line (JSONL), else indented JSON."""
    whole = {"schema_version": SCHEMA_VERSION, **content}
    if form is Format.YAML:
        import yaml

        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    indent = None if form is Format.JSONL else 2
    return json.dumps(whole, ensure_ascii=False, indent=indent) + "\n"


def note(remark: str) -> None:
    """A remark for people, on stderr: stdout stays what a pipe wants. A terminal folds it."""
    sys.stderr.write(_folded(remark, sys.stderr) + "\n")
    sys.stderr.flush()


def aside(remark: str) -> None:
    """A note that should not draw the eye: dim on a terminal."""
    folded = _folded(remark, sys.stderr)
    is_plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR")
    sys.stderr.write((folded if is_plain else f"\x1b[2m{folded}\x1b[0m") + "\n")
    sys.stderr.flush()


def sentence(said: str) -> None:
    """A sentence that is the result; folded on a terminal, one line in a pipe."""
    text(_folded(said, sys.stdout))


def console(stream: TextIO) -> "Console":
    """Rich on ``stream``: colours on a terminal only, whatever FORCE_COLOR says."""
    from rich.console import Console

    return Console(file=stream, force_terminal=stream.isatty(), highlight=False, markup=False)


def _folded(said: str, stream: TextIO) -> str:
    """Lines no longer than a terminal; what is in backquotes is to be copied, and stays whole."""
    if not stream.isatty():
        return said
    columns = shutil.get_terminal_size().columns
    quoted = _QUOTED.sub(lambda found: found[0].replace(" ", _NO_BREAK), said)
    lines = (_FOLD(line, columns) or [""] for line in quoted.split("\n"))
    return "\n".join(part for parts in lines for part in parts).replace(_NO_BREAK, " ")


def _print_table(table: Table) -> None:
    if not table.rows:
        if table.empty:
            note(table.empty)
        return
    if not sys.stdout.isatty():
        sys.stdout.writelines(_aligned([table.columns, *map(_texts, table.rows)]))
        return
    from rich import table as rich_table

    shown = rich_table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*(_one_line(cell) for cell in row))
    console(sys.stdout).print(shown)


def _one_line(cell: Cell) -> "Text":
    """A cell that is cut where it does not fit. Said of the cell, not of its column: Rich takes
    width from the widest of the columns that may wrap, and from all alike when none may.
    """
    from rich.text import Text

    return Text(_text(cell), style=_style(cell), no_wrap=True, overflow="ellipsis")


def _print_card(card: Card) -> None:
    fields = [(name, cell) for name, cell in card.fields if _text(cell)]
    if not sys.stdout.isatty():
        sys.stdout.writelines(_aligned([(name, _text(cell)) for name, cell in fields]))
        return
    from rich import table as rich_table
    from rich import text as rich_text

    shown = rich_table.Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, cell in fields:
        shown.add_row(name, rich_text.Text(_text(cell), style=_style(cell)))
    console(sys.stdout).print(shown)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The rows as lines, two spaces between columns, nothing after the last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip() + "\n"


def _texts(row: Sequence[Cell]) -> list[str]:
    return [_text(cell) for cell in row]


def _text(cell: Cell) -> str:
    return cell.text if isinstance(cell, Styled) else cell


def _style(cell: Cell) -> str:
    return cell.style if isinstance(cell, Styled) else ""
