"""The progress of transfers and imports on a terminal; silence everywhere else.

Progress goes to stderr, so that it shows while the result is piped away.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from controller.cli import output
from controller.cli.output import Format

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from controller import ImportProgress, TransferProgress


@contextmanager
def shown(form: Format) -> "Iterator[Callable[[TransferProgress], None] | None]":
    """What to give as ``on_progress``: a bar for each device, or None when nobody looks."""
    if form is not Format.TABLE or not sys.stderr.isatty():
        yield None
        return
    with _bars() as bars:
        tasks: dict[tuple[str, str], TaskID] = {}

        def on_progress(now: "TransferProgress") -> None:
            key = (now.device, now.digest)
            if key not in tasks:
                tasks[key] = bars.add_task(now.device, total=now.size_bytes)
            bars.update(tasks[key], completed=now.moved_bytes)

        yield on_progress


@contextmanager
def import_shown(form: Format) -> "Iterator[Callable[[ImportProgress], None] | None]":
    """The same for the import of a model: a bar for each stage."""
    if form is not Format.TABLE or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=output.console(sys.stderr), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(now: "ImportProgress") -> None:
            if now.stage not in tasks:
                tasks[now.stage] = bars.add_task(now.stage, total=now.total or None)
            bars.update(tasks[now.stage], completed=now.done, total=now.total or None)

        yield on_progress


def _bars() -> "Progress":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=output.console(sys.stderr),
        transient=True,
    )
