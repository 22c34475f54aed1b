"""``nanofleet device``: the devices of the fleet, and how they join it."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import device_view, options, output, plain, selection, session
from controller.cli.output import Format, Table
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from controller import DeviceRecord, DeviceStatus, Fleet
    from protos.nanofleet.v1.device_pb2 import DeviceEvent

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Devices by name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The device's name.")]


def list_devices(
    selector: options.Selector = "",
    check: Annotated[
        bool, typer.Option("--check", help="Contact each device; shows what it is and does.")
    ] = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """List the devices of the fleet.

    From the controller's own store; --check asks the devices themselves.

    Example: nanofleet device list -l site=lab --check
    """

    async def found(fleet: "Fleet") -> "list[DeviceStatus]":
        from controller import DeviceStatus

        devices = selection.matching(fleet, selector)
        if check:
            return await fleet.statuses(selector)
        return [DeviceStatus(device, reachable=False, device=device.facts) for device in devices]

    statuses = session.run(home, found)
    make = device_view.checked_table if check else device_view.table
    output.listing(
        "devices",
        [device_view.as_plain(status, checked=check) for status in statuses],
        make(statuses, time.time_ns()),
        form,
    )


def show(name: Name, form: options.Output = Format.TABLE, home: options.Home = None) -> None:
    """Show what a device is, has and does.

    Example: nanofleet device show kitchen
    """

    async def found(fleet: "Fleet") -> "DeviceStatus":
        selection.named(fleet, name)
        return await fleet.status(name)

    status = session.run(home, found)
    output.record(
        "device",
        device_view.as_plain(status, checked=True),
        device_view.card(status, time.time_ns()),
        form,
    )


def events(
    name: Name,
    newest: Annotated[
        int, typer.Option("--newest", "-n", help="How many, from the newest on.", min=1, max=256)
    ] = 20,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Show what a device has decided about its models, and why.

    Models loaded, refused and unloaded, adapters freed. Decisions about a job are among the
    events of that job.

    Example: nanofleet device events kitchen
    """

    async def found(fleet: "Fleet") -> "list[DeviceEvent]":
        selection.named(fleet, name)
        return await fleet.device_events(name, newest=newest)

    happened = session.run(home, found)
    output.listing(
        "events",
        [plain.message(event) for event in happened],
        device_view.events_table(happened),
        form,
    )


def label(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME]… KEY=VALUE…", help="Devices, labels to set, and KEY- to take one away."
        ),
    ],
    selector: options.Selector = "",
    yes: options.Yes = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Set and take away labels.

    Example: nanofleet device label kitchen site=lab rack-
    """
    # Neither "=" nor a "-" at the end can be in a device's name.
    taken = [text[:-1] for text in arguments if text.endswith("-") and "=" not in text]
    put = selection.labels_of([text for text in arguments if "=" in text])
    names = [text for text in arguments if "=" not in text and not text.endswith("-")]
    if not put and not taken:
        raise InvalidRequest(
            "Which labels?", fix="Write key=value to set one, key- to take one away."
        )

    async def changed(fleet: "Fleet") -> "list[DeviceRecord]":
        devices = selection.chosen(fleet, names, selector)
        selection.confirm("label", devices, selector, yes)
        for device in devices:
            labels = {key: value for key, value in device.labels.items() if key not in taken}
            fleet.label_device(device.name, {**labels, **put})
        return [selection.named(fleet, device.name) for device in devices]

    _print_labels(session.run(home, changed), form)


def remove(
    names: Names = None,
    selector: options.Selector = "",
    yes: options.Yes = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Remove devices from the fleet.

    The controller no longer accepts their certificates. What a device holds stays on it, and its
    jobs go on; it can join again with a new token.

    Example: nanofleet device remove kitchen
    """

    async def removed(fleet: "Fleet") -> list[str]:
        devices = selection.chosen(fleet, names or [], selector)
        selection.confirm("remove", devices, selector, yes)
        for device in devices:
            fleet.remove_device(device.name)
        return [device.name for device in devices]

    gone = session.run(home, removed)
    output.listing(
        "removed", [{"name": name} for name in gone], Table(("REMOVED",), [[n] for n in gone]), form
    )


def _print_labels(devices: "list[DeviceRecord]", form: Format) -> None:
    output.listing(
        "devices",
        [{"name": device.name, "labels": dict(device.labels)} for device in devices],
        Table(
            ("DEVICE", "LABELS"),
            [[device.name, device_view.labels(device.labels)] for device in devices],
        ),
        form,
    )
