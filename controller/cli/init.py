"""``nanofleet init``."""

from typing import Annotated

import typer

from controller.cli import options, output
from controller.cli.output import Card, Format


def init(
    name: Annotated[str, typer.Option(help="What to call the fleet.")] = "fleet",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Make a fleet: its certificate authority and its store.

    Done once; a second time is refused and changes nothing.

    Example: nanofleet init --name lab
    """
    import asyncio

    from controller import Fleet
    from controller.home import default_home

    async def create() -> tuple[str, str]:
        async with Fleet.create(home or default_home(), name=name) as fleet:
            return fleet.name, str(fleet.home)

    made, folder = asyncio.run(create())
    output.record(
        "fleet",
        {"name": made, "home": folder},
        Card([("fleet", made), ("home", folder)]),
        form,
    )
    if form is Format.TABLE:
        output.note(f"\nKeep {folder}/authority safe: whoever has it can add devices.")
        output.note("Add the first device with `nanofleet device token NAME`.")
