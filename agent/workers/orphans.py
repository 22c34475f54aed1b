"""Processes of workers as /proc shows them: what they use, and those that outlived their agent,
which are found and killed when the next agent starts.

The kernel kills a worker with its agent, but not the worker's own children, and a killed process
that waits for a broken disk can linger. Each living worker is noted with its number, the time that
it was started at, and the boot; all three must agree, because numbers are used again.
"""

import json
import logging
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from artifacts import durable
from artifacts.persisting import Point

_LOG = logging.getLogger(__name__)
_PATIENCE_MS = 10_000


def note(record: Path, pid: int, boot_id: str) -> None:
    """Written without a sync: after a power cut nothing is left to be swept."""
    facts = {"pid": pid, "started": _started(pid), "boot_id": boot_id}
    with Point.WORKER_NOTED:
        record.write_text(json.dumps(facts))


def sweep(records: Path, boot_id: str) -> list[int]:
    """Kills what the noted workers left running; returns the numbers of the processes."""
    durable.make_folder(records)
    killed: list[int] = []
    for record in sorted(records.glob("*.json")):
        killed += _left_of(record, boot_id)
        record.unlink(missing_ok=True)
    for pid in killed:
        _LOG.warning("killing process %d, which a worker left behind", pid)
        _kill(pid)
    return killed


def _left_of(record: Path, boot_id: str) -> list[int]:
    try:
        facts = json.loads(record.read_text())
        pid, started, noted_boot_id = int(facts["pid"]), facts["started"], facts["boot_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # half written when the agent died: its worker died with it
    now = _started(pid)
    if noted_boot_id != boot_id or now not in (started, None):
        return []
    return [member for member in _pids() if _session(member) == pid]


@dataclass(frozen=True, slots=True)
class Used:
    """What processes have taken since they were started."""

    cpu_s: float
    moved_bytes: int


def used_by_session(leader: int) -> Used:
    """By all living processes of the leader's session."""
    members = [pid for pid in _pids() if _session(pid) == leader]
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in map(_fields, members) if fields)
    return Used(ticks / os.sysconf("SC_CLK_TCK"), sum(map(_moved_bytes, members)))


def _moved_bytes(pid: int) -> int:
    """From and to disks, by calls and of mapped files; not of pipes, nor of files in memory."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    counted = dict(line.split(": ") for line in lines)
    return sum(int(counted.get(name, 0)) for name in ("read_bytes", "write_bytes"))


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may contain anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> int | None:
    """In clock ticks after boot; None when there is no such process."""
    fields = _fields(pid)
    return int(fields[19]) if fields else None


def _session(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[3]) if fields else None


def _kill(pid: int) -> None:
    """Kills the process and waits until it has let go of its memory and files."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it is gone, or the kernel is older than 5.3
        descriptor = None
    try:
        os.kill(pid, signal.SIGKILL)
        if descriptor is not None:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(_PATIENCE_MS)
    except ProcessLookupError:
        pass
    finally:
        if descriptor is not None:
            os.close(descriptor)
