"""``nanofleet device token``: invites a device, and lets it in.

A token alone does nothing: somebody must answer the device that brings it. So the command serves
enrolment itself until the device has joined. What goes to stdout is the one line to run on the
device, so that it can be piped: ``nanofleet device token kitchen | ssh kitchen sh``.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import address, device, options, output, selection, session, units
from controller.cli.output import Format
from protos.errors import TimedOut
from protos.transport import ENROLMENT_PORT

if TYPE_CHECKING:
    from controller import DeviceRecord, Fleet, Token


def token(
    name: device.Name,
    ttl: Annotated[str, typer.Option(help="How long it may be used: 90s, 15m, 2h.")] = "15m",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label of the device; may be repeated."),
    ] = None,
    advertise: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Where the device reaches this machine.  [default: the default route's address]",
        ),
    ] = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to serve; 0 takes a free one.")
    ] = ENROLMENT_PORT,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Serve until the device has joined."),
    ] = True,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Invite a device: print the command to run on it, and let it in.

    Waits until the device has joined. The token is bound to the name, and can be spent once.
    Ctrl-C stops waiting.

    Example: nanofleet device token kitchen --label site=lab
    """
    ttl_s = options.seconds(ttl, "ttl")
    labels = selection.labels_of(label or [])

    def invite(fleet: "Fleet", served_port: int) -> None:
        at = address.advertised(advertise, served_port)
        _print(fleet.new_token(name, address=at, labels=labels, ttl_s=ttl_s), form)

    async def only_print(fleet: "Fleet") -> None:
        invite(fleet, port)
        output.note(
            "Nobody is listening yet: the device can join while `nanofleet device token`"
            " (without --no-wait, for any device) runs here."
        )

    async def serve(fleet: "Fleet") -> "DeviceRecord":
        async with fleet.enrolment(port=port) as server:
            served_port = address.split(server.address, port)[1]
            invite(fleet, served_port)
            output.note(
                f"Waiting {units.duration(ttl_s)} for {name} to join at port {served_port}"
                " (Ctrl-C stops waiting) …"
            )
            try:
                return await server.joined(name, timeout_s=ttl_s)
            except TimedOut:
                raise TimedOut(
                    f"{name} has not joined within {units.duration(ttl_s)}.",
                    why="The token's life has ended.",
                    fix=f"Make a new one: `nanofleet device token {name}`.",
                ) from None

    if not wait:
        session.run(home, only_print)
        return
    joined = session.run(home, serve)
    output.note(f"{joined.name} has joined, at {joined.address}.")


def _print(made: "Token", form: Format) -> None:
    command = f"nanofleet-agent join {made.text}"
    if form is Format.TABLE:
        if sys.stdout.isatty():
            output.note(f"Run on {made.device}:\n")
            command += "\n"
        output.text(command)
        return
    output.record(
        "token",
        {"device": made.device, "command": command, "expires_in_s": made.expires_in_s},
        output.Card(()),
        form,
    )
