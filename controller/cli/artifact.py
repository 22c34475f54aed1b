"""``nanofleet artifact``: immutable bytes, in the fleet's own store and on the devices."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import artifact_view, options, output, selection, session, transfers
from controller.cli.output import Format, Table
from protos.errors import NotFound

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet, Transfer
    from protos.nanofleet.v1 import artifact_pb2

Reference = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="A name, a digest, or its first 8 or more digits.")
]
Device = Annotated[str, typer.Option("--device", help="On this device, not in the fleet's store.")]
Kind = Annotated[options.Kind | None, typer.Option("--kind", help="Only artifacts of this kind.")]


def push(
    reference: Reference,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]…", help="Devices by name.")
    ] = None,
    selector: options.Selector = "",
    yes: options.Yes = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Send an artifact to devices.

    A transfer that broke off goes on where it stopped.

    Example: nanofleet artifact push gemma-3-1b-it kitchen hall
    """

    async def pushed(fleet: "Fleet") -> "list[Transfer]":
        devices = selection.chosen(fleet, names or [], selector)
        fleet.resolve(reference)
        selection.confirm("push to", devices, selector, yes)
        with transfers.shown(form) as on_progress:
            return await fleet.push(reference, [device.name for device in devices], on_progress)

    done = session.run(home, pushed)
    output.listing(
        "transfers",
        [artifact_view.transfer_plain(transfer) for transfer in done],
        artifact_view.transfer_table(done),
        form,
    )


def pull(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device that has it.")],
    reference: Reference,
    to: Annotated[Path, typer.Option("--to", help="The file to write.")],
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Fetch an artifact from a device into a file.

    Example: nanofleet artifact pull kitchen 3f2a9c01d4e5 --to adapter.tar
    """

    async def pulled(fleet: "Fleet") -> "Transfer":
        selection.named(fleet, device)
        digest = await _digest_on(fleet, device, reference)
        with transfers.shown(form) as on_progress:
            return await fleet.pull(device, digest, to, on_progress)

    done = session.run(home, pulled)
    output.listing(
        "transfers",
        [{**artifact_view.transfer_plain(done), "path": str(to)}],
        artifact_view.transfer_table([done]),
        form,
    )


def list_artifacts(
    device: Device = "",
    kind: Kind = None,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """List what the fleet's store holds, or a device.

    Example: nanofleet artifact list --device kitchen
    """
    if device:
        _list_remote(device, kind, form, home)
        return

    async def found(fleet: "Fleet") -> "list[CatalogueEntry]":
        return fleet.artifacts(kind.number if kind else None)

    entries = session.run(home, found)
    output.listing(
        "artifacts",
        [artifact_view.as_plain(entry) for entry in entries],
        artifact_view.table(entries, "The store is empty. See `nanofleet model import --help`."),
        form,
    )


def remove(
    reference: Reference,
    device: Device = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Remove an artifact from the fleet's store, or from a device.

    Refused while a job or a loaded model needs it.

    Example: nanofleet artifact rm old-persona --device kitchen
    """

    async def removed(fleet: "Fleet") -> None:
        if device:
            selection.named(fleet, device)
            digest = await _digest_on(fleet, device, reference)
            await fleet.remove_artifact(digest, device=device)
        else:
            await fleet.remove_artifact(reference)

    session.run(home, removed)
    output.listing("removed", [{"artifact": reference}], Table(("REMOVED",), [[reference]]), form)


def _list_remote(device: str, kind: options.Kind | None, form: Format, home: Path | None) -> None:
    from controller.cli import plain

    async def found(fleet: "Fleet") -> "tuple[list[artifact_pb2.Artifact], dict[str, str]]":
        selection.named(fleet, device)
        names = {entry.digest: entry.name for entry in fleet.artifacts() if entry.name}
        return await fleet.remote_artifacts(device), names

    artifacts, names = session.run(home, found)
    wanted = [one for one in artifacts if kind is None or one.kind == kind.number]
    output.listing(
        "artifacts",
        [{"name": names.get(one.digest), **plain.message(one)} for one in wanted],
        artifact_view.remote_table(device, wanted, names),
        form,
    )


async def _digest_on(fleet: "Fleet", device: str, reference: str) -> str:
    """The digest that ``reference`` means: a name of the fleet, or digits that the device knows."""
    digits = reference.removeprefix("sha256:")
    held = [one.digest for one in await fleet.remote_artifacts(device)]
    found = [digest for digest in held if digest.partition(":")[2].startswith(digits)]
    if len(found) == 1 and len(digits) >= 8:
        return found[0]
    digest = fleet.resolve(reference).digest
    if digest in held:
        return digest
    raise NotFound(
        f"{device} does not hold {reference}.",
        fix=f"See `nanofleet artifact list --device {device}`.",
    )
