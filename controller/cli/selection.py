"""Which devices a command is for, and the question before many are changed."""

import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from controller.cli import output
from protos.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from controller import DeviceRecord, Fleet

_MAX_SHOWN = 8


def matching(fleet: "Fleet", selector: str) -> list["DeviceRecord"]:
    """The devices that ``selector`` matches (all, when it is empty); a selector must match one."""
    found = fleet.devices(selector)
    if selector and not found:
        known = len(fleet.devices())
        raise NotFound(
            f"No device matches {selector}.",
            why=f"The fleet has {known} device{_s(known)}.",
            fix="See `nanofleet device list` for their names and labels.",
        )
    return found


def chosen(fleet: "Fleet", names: Sequence[str], selector: str) -> list["DeviceRecord"]:
    """The devices that are named, or that ``selector`` matches; at least one."""
    if bool(names) == bool(selector):
        raise InvalidRequest(
            "Which devices?",
            why="Both names and a selector are given." if names else "None is given.",
            fix="Name them, or choose with -l key=value.",
        )
    return [named(fleet, name) for name in names] if names else matching(fleet, selector)


def named(fleet: "Fleet", name: str) -> "DeviceRecord":
    devices = {device.name: device for device in fleet.devices()}
    if name in devices:
        return devices[name]
    near = difflib.get_close_matches(name, devices, n=3)
    raise NotFound(
        f"No device is called {name}.",
        why=f"Did you mean {' or '.join(near)}?" if near else "",
        fix="See `nanofleet device list`.",
    )


def confirm(verb: str, devices: Sequence["DeviceRecord"], selector: str, yes: bool) -> None:
    """Shows what a selector matched and asks; names that were typed are not asked about."""
    if not selector:
        return
    shown = ", ".join(device.name for device in devices[:_MAX_SHOWN])
    rest = f" and {len(devices) - _MAX_SHOWN} more" if len(devices) > _MAX_SHOWN else ""
    count = len(devices)
    output.note(
        f"{count} device{_s(count)} match{'es' if count == 1 else ''} {selector}: {shown}{rest}"
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"This would {verb} {count} device{_s(count)}, and nobody is there to confirm it.",
            fix="Add --yes.",
        )
    typer.confirm(f"{verb.capitalize()} {'it' if count == 1 else 'them'}?", abort=True, err=True)


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """``key=value`` arguments as a mapping."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidRequest(
                f"{text!r} is not a label.", fix="Write it as key=value, such as site=lab."
            )
        labels[key] = value
    return labels


def _s(count: int) -> str:
    return "" if count == 1 else "s"
