"""How an error is printed: what happened, why, and what to do about it, on stderr.

    error: No device is called kitchn.
      why: The fleet has kitchen and hall.
      fix: Run `nanofleet device list`.

Coloured and folded on a terminal only; with ``-o json``, ``jsonl`` or ``yaml`` the same as a
document, so that a program need not read prose.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

from controller.cli import output
from controller.cli.output import Format
from protos.error_document import document_of
from protos.errors import NanofleetError

_RED, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1m", "\x1b[0m"
# Commands and paths in a message stay whole, to be copied.
_FOLD = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)


def report(error: NanofleetError, form: Format) -> None:
    if form is not Format.TABLE:
        sys.stderr.write(output.document({"error": {**document_of(error)}}, form))
    elif sys.stderr.isatty():
        sys.stderr.write(_text(error, shutil.get_terminal_size().columns))
    else:
        sys.stderr.write(_text(error, None))
    sys.stderr.flush()


def wanted_format(arguments: Sequence[str]) -> Format:
    """The format that ``-o`` asks for, read from raw arguments: they may be the very error."""
    forms = {form.value: form for form in Format}
    found = Format.TABLE
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument in ("-o", "--output"):
            value = arguments[position + 1] if position + 1 < len(arguments) else ""
        elif argument.startswith("--output="):
            value = argument.removeprefix("--output=")
        elif argument.startswith("-o"):
            value = argument.removeprefix("-o")
        else:
            continue
        found = forms.get(value, found)
    return found


def _text(error: NanofleetError, columns: int | None) -> str:
    """As lines; folded to ``columns`` and coloured when they are given (a terminal)."""
    parts = (("error: ", error.what), ("  why: ", error.why), ("  fix: ", error.fix))
    lines = []
    for label, sentence in parts:
        if sentence:
            lines.extend(_folded(label, sentence, columns))
    return "\n".join(lines) + "\n"


def _folded(label: str, sentence: str, columns: int | None) -> list[str]:
    """A sentence may have several lines (the problems of a dataset); all stand below the first."""
    lines = sentence.splitlines()
    if columns is not None:
        width = max(columns - len(label), 20)
        lines = [part for own in lines for part in _FOLD(own, width)]
    return [
        (_coloured(label, columns) if number == 0 else " " * len(label)) + text
        for number, text in enumerate(lines)
    ]


def _coloured(label: str, columns: int | None) -> str:
    if columns is None or os.environ.get("NO_COLOR"):
        return label
    return f"{_RED if label.startswith('error') else _BOLD}{label}{_RESET}"
