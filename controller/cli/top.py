"""``nanofleet top``: what every device does, now."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import (
    fleet_screen,
    fleet_view,
    follow,
    options,
    output,
    plain,
    selection,
    session,
)
from controller.cli.fleet_view import Row
from controller.cli.output import Format
from protos.errors import NanofleetError, NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller import Fleet
    from controller.cli.fleet_board import FleetBoard

_FRAMES_PER_S = 4


def top(
    selector: options.Selector = "",
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Show live what the devices do.

    Memory, power, temperature, tokens/s, and of a training job its step, loss and time to go.
    Ctrl-C ends it. In a pipe one frame is printed; -o jsonl streams each sample in full.

    Example: nanofleet top -l site=lab
    """
    if form is Format.JSONL and not once:
        session.run(home, lambda fleet: _stream(fleet, selector))
    elif form is Format.TABLE and not once and sys.stdout.isatty():
        session.run(home, lambda fleet: _live(fleet, selector))
    else:
        rows = session.run(home, lambda fleet: _one_frame(fleet, selector))
        items = [fleet_view.as_plain(row) for row in fleet_view.ordered(rows)]
        output.listing("devices", items, fleet_screen.table(rows), form)


async def _live(fleet: "Fleet", selector: str) -> None:
    from rich.live import Live

    board = _board(fleet, selector)
    console = output.console(sys.stdout)

    def frame() -> "RenderableType":
        return fleet_screen.frame(board.headline(), board.rows, console.width, console.height)

    with Live(console=console, get_renderable=frame, refresh_per_second=_FRAMES_PER_S, screen=True):
        await board.run()


async def _one_frame(fleet: "Fleet", selector: str) -> list[Row]:
    return await _board(fleet, selector).settled()


async def _stream(fleet: "Fleet", selector: str) -> None:
    import asyncio

    async def lines(device: str) -> None:
        def lost(error: NanofleetError) -> None:
            output.line({"device": device, "problem": error.what, "sample": None})

        async for sample in follow.samples(fleet, device, lost):
            output.line({"device": device, "problem": None, "sample": plain.message(sample)})

    devices = selection.matching(fleet, selector)
    await asyncio.gather(*(lines(device.name) for device in devices))


def _board(fleet: "Fleet", selector: str) -> "FleetBoard":
    from controller.cli.fleet_board import FleetBoard

    devices = selection.matching(fleet, selector)
    if not devices:
        raise NotFound(
            "The fleet has no devices.", fix="Add one with `nanofleet device token NAME`."
        )
    return FleetBoard(fleet, [device.name for device in devices])
