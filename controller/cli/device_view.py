"""How a device is shown: as a row, as a card, and as a plain dictionary."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controller.cli import plain, units
from controller.cli.output import Card, Cell, Styled, Table
from controller.cli.plain import Plain
from protos.nanofleet.v1 import device_pb2

if TYPE_CHECKING:
    from controller import DeviceStatus

_EMPTY = "No device has joined. Add one with `nanofleet device token NAME`."


def table(statuses: "Sequence[DeviceStatus]", now_ns: int) -> Table:
    """From the store: what is known without asking anybody."""
    rows = [
        [
            status.record.name,
            status.record.address,
            labels(status.record.labels) or units.ABSENT,
            units.age(status.record.last_seen_utc_ns, now_ns),
            _model(status.device.board) if status.device else units.ABSENT,
        ]
        for status in statuses
    ]
    return Table(("DEVICE", "ADDRESS", "LABELS", "LAST SEEN", "BOARD"), rows, _EMPTY)


def checked_table(statuses: "Sequence[DeviceStatus]", now_ns: int) -> Table:
    """Just asked: what each is and does, or why it did not answer."""
    rows = [
        [
            status.record.name,
            state(status),
            *_facts(status),
            labels(status.record.labels) or units.ABSENT,
            _seen(status, now_ns),
        ]
        for status in statuses
    ]
    columns = ("DEVICE", "STATE", "BOARD", "MEMORY", "JOBS", "AGENT", "LABELS", "LAST SEEN")
    return Table(columns, rows, _EMPTY)


def events_table(events: Sequence[device_pb2.DeviceEvent]) -> Table:
    rows = [
        [
            units.stamp(event.at.utc_ns),
            event.act,
            (event.adapter_digest or event.base_digest)[:19] or units.ABSENT,
            event.reason,
        ]
        for event in events
    ]
    return Table(("WHEN", "DECIDED", "ABOUT", "WHY"), rows, "Nothing was decided there yet.")


def card(status: "DeviceStatus", now_ns: int) -> Card:
    record = status.record
    fields: list[tuple[str, Cell]] = [
        ("device", record.name),
        ("state", state(status)),
        ("problem", "" if status.reachable else status.problem),
        ("address", record.address),
        ("labels", labels(record.labels)),
        ("joined", units.stamp(record.joined_utc_ns)),
        ("last seen", _seen(status, now_ns)),
    ]
    known = status.device or record.facts
    return Card([*fields, *(_details(known) if known else ())])


def as_plain(status: "DeviceStatus", *, checked: bool) -> dict[str, Plain]:
    """``reachable`` is null when nobody asked the device."""
    record = status.record
    known = status.device or record.facts
    return {
        "name": record.name,
        "address": record.address,
        "labels": dict(record.labels),
        "joined_utc_ns": record.joined_utc_ns,
        "last_seen_utc_ns": record.last_seen_utc_ns or None,
        "reachable": status.reachable if checked else None,
        "problem": status.problem or None,
        "facts": plain.message(known) if known else None,
    }


def state(status: "DeviceStatus") -> Cell:
    if not status.reachable:
        return Styled("unreachable", "red")
    busy = status.device is not None and status.device.active_jobs
    return Styled("busy", "bold blue") if busy else Styled("idle", "green")


def labels(known: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(known.items()))


def _seen(status: "DeviceStatus", now_ns: int) -> str:
    return "now" if status.reachable else units.age(status.record.last_seen_utc_ns, now_ns)


def _facts(status: "DeviceStatus") -> list[Cell]:
    known = status.device
    if known is None:
        return [units.ABSENT] * 4
    return [
        _model(known.board) or units.ABSENT,
        units.size(known.board.memory_total_bytes or None),
        str(known.active_jobs),
        known.agent_version or units.ABSENT,
    ]


def _details(device: device_pb2.Device) -> list[tuple[str, Cell]]:
    board, storage = device.board, device.storage
    system = (board.jetpack and f"JetPack {board.jetpack}", board.l4t and f"L4T {board.l4t}")
    return [
        ("board", _model(board)),
        ("simulated", _simulated(board)),
        ("module", _module(board)),
        ("system", _joined(", ", *system, board.kernel, board.architecture, _glibc(board))),
        ("container", board.container),
        ("power mode", _power_mode(board)),
        ("heat", _limits(board)),
        ("cpu", f"{board.cpu_count} cores" if board.cpu_count else ""),
        ("supply", _supply(device)),
        ("memory", _memory(device)),
        ("swap-in", _swap_in(device)),
        (
            "storage",
            f"{units.size(storage.free_bytes)} free of {units.size(storage.total_bytes)},"
            f" artifacts {units.size(storage.artifacts_bytes)}",
        ),
        ("engines", ", ".join(f"{engine.name} {engine.version}" for engine in device.engines)),
        ("agent", device.agent_version),
        ("model", _loaded(device)),
        ("jobs", f"{device.active_jobs} queued, running or paused"),
        ("can", ", ".join(device.capabilities)),
    ]


def _model(board: device_pb2.Board) -> str:
    return f"{board.model} (simulated)" if board.simulated else board.model


def _simulated(board: device_pb2.Board) -> str:
    if not board.simulated:
        return ""
    return f"{board.simulated}: what is told of the board, its power and its heat is not measured"


def _module(board: device_pb2.Board) -> str:
    size = f"{board.memory_variant_gb} GB" if board.memory_variant_gb else ""
    cuda = f"sm_{board.cuda_architecture}" if board.cuda_architecture else ""
    carrier = f"on {board.carrier}" if board.carrier else ""
    return _joined(", ", _joined(" ", board.module, carrier), size, board.soc, cuda)


def _glibc(board: device_pb2.Board) -> str:
    return f"glibc {board.glibc}" if board.glibc else ""


def _power_mode(board: device_pb2.Board) -> str:
    if not board.HasField("clocks_pinned"):
        return board.power_mode
    clocks = "pinned (jetson_clocks)" if board.clocks_pinned else "free"
    return _joined(", ", board.power_mode, f"clocks {clocks}")


def _limits(board: device_pb2.Board) -> str:
    """``slows down at 99 °C, switches off at 105 °C``: the lowest limits of all zones."""
    said = []
    for kind, what in (("passive", "slows down"), ("critical", "switches off")):
        limits = [t.celsius for zone in board.zones for t in zone.trips if t.kind == kind]
        if limits:
            said.append(f"{what} at {units.celsius(min(limits))}")
    return ", ".join(said)


def _memory(device: device_pb2.Device) -> str:
    total = units.size(device.board.memory_total_bytes or None)
    return f"{total}, of which {units.size(device.memory_budget_bytes or None)} for workers"


def _supply(device: device_pb2.Device) -> str:
    """Absent where the kernel knows nothing of it, as on most boards."""
    told = device.supply
    if not device.HasField("supply"):
        return ""
    return units.supply(
        told.on_mains if told.HasField("on_mains") else None,
        told.battery_percent if told.HasField("battery_percent") else None,
    )


def _swap_in(device: device_pb2.Device) -> str:
    """Absent where the kernel does not count it."""
    if not device.HasField("swap_in_bytes_per_s"):
        return ""
    return units.speed(device.swap_in_bytes_per_s, 1)


def _loaded(device: device_pb2.Device) -> str:
    if not device.HasField("loaded_model"):
        return "none in memory"
    model = device.loaded_model
    said = f"{model.base_digest[:19]} in memory, context {model.context_length}"
    count = len(model.adapter_digests)
    return said + (f", {count} adapter{'s' if count != 1 else ''}" if count else "")


def _joined(separator: str, *parts: str) -> str:
    return separator.join(part for part in parts if part)
