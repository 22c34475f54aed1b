"""``nanofleet demo``: options in, the story told, devices stopped or kept."""

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from artifacts import headroom
from controller.cli import options, output
from controller.cli.output import Format
from protos.errors import AlreadyExists, DiskFull, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from controller.demo.processes import Agent

FOLDER = Path("nanofleet-demo")
# 256 MiB that agents keep free, and the rest.
NEEDED_BYTES = 328 << 20


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the fleet running, and say how to talk to it.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="A new folder for everything.  [default: nanofleet-demo/run-N]"
        ),
    ] = None,
    form: options.Output = Format.TABLE,
) -> None:
    """See a model learn on a device: two agents on this machine, from nothing, in two minutes.

    One device fine-tunes the small model that ships with nanofleet while the other serves it.
    The plug is pulled on the way, the adapter comes back, and both devices answer with it.

    Example: nanofleet demo --keep
    """
    import asyncio

    from controller.demo import processes
    from controller.demo.outcome import summary
    from controller.demo.screen import Screen
    from controller.demo.story import Story

    # With -o json stdout belongs to the summary alone.
    screen = Screen(output.console(sys.stdout if form is Format.TABLE else sys.stderr))
    chosen = folder.resolve() if folder else FOLDER
    # Ended from outside, the demo takes its agents with it: they have sessions of their own.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _as_ctrl_c)
    with _telling_of_failure(chosen):
        _check_room(chosen)
        story = Story(new_folder(chosen) if folder else next_folder(FOLDER), screen)
        told = False
        try:
            outcome = asyncio.run(story.tell())
            told = True
        finally:
            if not (keep and told):
                processes.stop(story.agents.values())
    if form is Format.TABLE:
        screen.table(outcome)
    else:
        output.record("demo", summary(outcome), output.Card(()), form)
    screen.say(f"Everything lies in {story.folder}; the figures are in summary.json.")
    if keep:
        screen.say(_how_to_talk(story.folder, story.agents.values()))


def _as_ctrl_c(number: int, frame: "FrameType | None") -> None:
    """Ends the demo as Ctrl-C would at this moment: where an event loop runs, its story is
    cancelled. An exception raised into the middle of the loop would be told as a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored, in a shell's background
        handler = signal.default_int_handler
    handler(number, frame)


def _check_room(folder: Path) -> None:
    """Before the first byte: an agent that stops in the middle says less."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free_bytes = headroom.free_bytes(there)
    if free_bytes < NEEDED_BYTES:
        raise DiskFull(
            f"The demo needs {headroom.readable(NEEDED_BYTES)} of disk in {folder}.",
            why=f"{headroom.readable(free_bytes)} are free.",
            fix="Free some space, or choose another folder with --folder.",
        )


@contextmanager
def _telling_of_failure(folder: Path) -> "Iterator[None]":
    """What the system refuses in the demo's own folder, as errors of ours."""
    try:
        with headroom.naming_disk_faults(folder):
            yield
    except OSError as error:
        raise InvalidRequest(
            f"The demo cannot use the folder {folder}: {error.strerror or error}.",
            why=f"It is about {error.filename}." if error.filename else "",
            fix="Choose another one with --folder.",
            field="folder",
        ) from error


def new_folder(folder: Path) -> Path:
    """Made, unless it is there and empty: a fleet that is in it already is somebody's."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise AlreadyExists(
            f"The demo's folder {folder} holds something already.",
            why="The demo begins from nothing, and would mix its fleet with what is there.",
            fix="Choose a new or an empty folder with --folder.",
            field="folder",
        )
    return folder


def next_folder(parent: Path) -> Path:
    """The first of run-1, run-2, … that is not there yet, made."""
    number = 1
    while True:
        try:
            (parent / f"run-{number}").mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return (parent / f"run-{number}").resolve()


def _how_to_talk(folder: Path, agents: "Iterable[Agent]") -> str:
    names = [agent.name for agent in agents]
    command = Path(sys.argv[0])
    nanofleet = str(command) if command.name == "nanofleet" else "nanofleet"
    return "\n".join(
        (
            "",
            "The fleet is running. Talk to it:",
            f"  export NANOFLEET_HOME={folder / 'fleet'}",
            f"  {nanofleet} chat {names[-1]} --adapter persona",
            f"  {nanofleet} top",
            f"  {nanofleet} job show persona",
            f"Stop it: kill {' '.join(str(agent.pid) for agent in agents)}",
        )
    )
