"""What a selector can ask of a device besides its labels, from the newest answer to GetDevice.

    name      as it joined                   cpus      number of cores
    board     nano, orin-nano, agx-orin, …   kernel    5.15.148-tegra
    soc       tegra234                       mem       memory for workers, bytes
    l4t       36.4.3                         mem.total memory in all, bytes
    jetpack   6.2                            disk      free bytes
    arch      aarch64                        version   of the agent
    state     idle, busy, or unreachable

Unknown facts are absent: ``mem>=4Gi`` does not select a device that was never reached.
"""

import re
from collections.abc import Iterable

from controller import selector
from controller.records import DeviceRecord, DeviceStatus
from protos.nanofleet.v1 import device_pb2

_NOT_OF_THE_NAME = re.compile(
    r"\bnvidia\b|\bjetson\b|\bdeveloper kit\b|\bmodule\b|\b\d+ ?gb\b|\(r\)|\(tm\)"
)


def of(name: str, device: device_pb2.Device | None, *, state: str = "") -> dict[str, str]:
    """The known facts; ``state`` as the caller knows it."""
    known = {"name": name, "state": state}
    if device is not None:
        known |= _board(device.board)
        known |= {
            "version": device.agent_version,
            "mem": _number(device.memory_budget_bytes),
            "disk": _number(device.storage.free_bytes),
        }
        if not state:
            known["state"] = state_of(device)
    return {key: value for key, value in known.items() if value}


def selected(records: Iterable[DeviceRecord], text: str) -> list[DeviceRecord]:
    """Those that the selector selects, by what was last known of them."""
    wanted = selector.parse(text)
    return [r for r in records if wanted.selects(r.labels, of(r.name, r.facts))]


def selected_statuses(statuses: Iterable[DeviceStatus], text: str) -> list[DeviceStatus]:
    """Those that the selector selects, by what they have just said."""
    wanted = selector.parse(text)
    return [found for found in statuses if wanted.selects(found.record.labels, of_status(found))]


def of_status(status: DeviceStatus) -> dict[str, str]:
    record = status.record
    state = "" if status.reachable else "unreachable"
    return of(record.name, status.device or record.facts, state=state)


def state_of(device: device_pb2.Device) -> str:
    return "busy" if device.active_jobs else "idle"


def board_word(model: str) -> str:
    """``NVIDIA Jetson Orin Nano 8 GB`` as people write it in a selector: ``orin-nano``."""
    shortened = _NOT_OF_THE_NAME.sub(" ", model.lower())
    return "-".join(re.findall(r"[a-z0-9.]+", shortened))


def _board(board: device_pb2.Board) -> dict[str, str]:
    return {
        "board": board_word(board.model),
        "soc": board.soc,
        "l4t": board.l4t,
        "jetpack": board.jetpack,
        "kernel": board.kernel,
        "arch": board.architecture,
        "cpus": _number(board.cpu_count),
        "mem.total": _number(board.memory_total_bytes),
    }


def _number(value: int) -> str:
    return str(value) if value else ""
