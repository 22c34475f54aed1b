"""What is wrong with this device, and what to do about it: `nanofleet-agent doctor`.

Each check is a row of CHECKS: a name, what to do when it is not well, and a function that looks. A
function gets the Site (where to look), so that each can be made to fail in a test, and returns what
it found. Nothing here changes the device. The checks of the board itself are in board_checks.py.
"""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from agent import board_checks, lock, probe
from agent.findings import Found, Level, Site, fail, ok, warn
from protos.errors import Unreachable, WorkerFailed

# No sample, certificate or release of nanofleet is older: a clock before it was never set.
EARLIEST_UTC_S = datetime(2025, 6, 1, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    remedy: str
    look: Callable[[Site], Found]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    level: Level
    finding: str
    # Empty when all is well.
    remedy: str


def examine(site: Site, checks: Sequence[Check] | None = None) -> list[Finding]:
    """Runs the checks, in order. A check that cannot look is itself a finding."""
    return [_finding(check, site) for check in (CHECKS if checks is None else checks)]


def worst(findings: Sequence[Finding]) -> Level:
    return max((finding.level for finding in findings), default=Level.OK)


def report(findings: Sequence[Finding]) -> str:
    """For people: a line for each check, and below it what to do."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.name.lower():<4}  {finding.name:<{width}}  {finding.finding}")
        if finding.remedy:
            lines.append(f"{'':<{width + 8}}→ {finding.remedy}")
    return "\n".join(lines)


def _finding(check: Check, site: Site) -> Finding:
    try:
        found = check.look(site)
    except OSError as error:
        found = fail(f"cannot be checked: {error}")
    return Finding(
        check.name, found.level, found.text, "" if found.level is Level.OK else check.remedy
    )


def _state_folder(site: Site) -> Found:
    if not site.state.is_dir():
        return fail(f"{site.state} is not a folder")
    if not os.access(site.state, os.W_OK | os.X_OK):
        return fail(f"{site.state} cannot be written by this user")
    return ok(str(site.state))


def _key(site: Site) -> Found:
    path = site.state / "identity" / "key.pem"
    if not path.exists():
        return warn("no key: this device has not joined a fleet")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return fail(f"{path} can be read by others (mode {mode:04o})")
    return ok("private")


def _certificate(site: Site) -> Found:
    path = site.state / "identity" / "chain.pem"
    if not path.exists():
        return warn("none: this device has not joined a fleet")
    try:
        validity = probe.certificate_validity(path, site.python)
    except WorkerFailed as error:
        return fail(str(error))
    now_s = site.utc_s()
    if now_s < validity.not_before_s:
        return fail(f"is valid only from {_date(validity.not_before_s)} on")
    if now_s >= validity.not_after_s:
        return fail(f"ended on {_date(validity.not_after_s)}")
    left_days = int((validity.not_after_s - now_s) // 86400)
    found = f"valid until {_date(validity.not_after_s)}"
    return warn(f"{found}: {left_days} days left") if left_days < 30 else ok(found)


def _clock(site: Site) -> Found:
    now_s = site.utc_s()
    text = datetime.fromtimestamp(now_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if now_s < EARLIEST_UTC_S:
        return warn(f"{text} cannot be: it was never set since power came")
    joined = site.state / "identity" / "chain.pem"
    if joined.exists() and now_s + 60 < joined.stat().st_mtime:
        return warn(f"{text} is before the time when this device joined its fleet")
    return ok(text)


def _disk(site: Site) -> Found:
    folder = next(path for path in (site.state, *site.state.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free"
    if usage.free < site.least_disk_bytes:
        return fail(text)
    return warn(text) if usage.free < site.comfortable_disk_bytes else ok(text)


def _port(site: Site) -> Found:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", site.port))
        except OSError as error:
            return _taken(site, error)
    return ok(f"port {site.port} is free")


def _taken(site: Site, error: OSError) -> Found:
    try:
        return ok(f"the agent is running, and listens on {lock.holder(site.state).address}")
    except Unreachable:
        return fail(f"port {site.port}: {error.strerror}")


def _engine(name: str) -> Callable[[Site], Found]:
    def look(site: Site) -> Found:
        try:
            return ok(probe.engine_version(name, site.python))
        except WorkerFailed as error:
            return fail(str(error))

    return look


def _date(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, timezone.utc).strftime("%Y-%m-%d")


CHECKS: tuple[Check, ...] = (
    Check(
        "state folder",
        "Make it, and give it to the user that runs the agent: mkdir -p, chown, chmod 700.",
        _state_folder,
    ),
    Check(
        "key",
        "Join a fleet with `nanofleet-agent join TOKEN`; a key that others can read: chmod 600.",
        _key,
    ),
    Check(
        "certificate",
        "Join the fleet (again) with `nanofleet-agent join TOKEN`; a token comes from"
        " `nanofleet device token NAME` on the controller. Check the clock first.",
        _certificate,
    ),
    Check(
        "clock",
        "Give the board the time: `timedatectl set-ntp true`, or a clock battery. Jobs run without"
        " it; only the dates in records are wrong.",
        _clock,
    ),
    Check(
        "disk",
        "Remove artifacts that no job needs (`nanofleet artifact rm`), or move the state folder"
        " to a larger disk.",
        _disk,
    ),
    Check(
        "port",
        "End what listens there (`ss -ltnp` names it), or choose another port with --port.",
        _port,
    ),
    Check("engine llama", "Install it: pip install 'nanofleet[infer]'.", _engine("llama")),
    Check("engine torch", "Install it: pip install 'nanofleet[train]'.", _engine("torch")),
    Check(
        "board",
        "Update L4T to 36.5.0 or later: 36.4.7 refuses large GPU buffers (NvMap error 12).",
        board_checks.board,
    ),
    Check(
        "memory",
        "Stop what else runs on the board (a desktop takes 250 to 865 MB), or use smaller models.",
        board_checks.available_memory,
    ),
    Check(
        "desktop",
        "Start without it: `sudo systemctl set-default multi-user.target`, then reboot.",
        board_checks.desktop,
    ),
    Check(
        "swap",
        "Use a swap file on NVMe or SSD in place of zram, which takes the memory that training"
        " needs: `sudo systemctl disable nvzramconfig`, then fallocate, mkswap, swapon.",
        board_checks.swap,
    ),
    Check(
        "power sensor",
        "Without one, energy and joules a token are absent; nothing else is. On a workstation run"
        " the agent as root to read RAPL.",
        board_checks.power_sensor,
    ),
)
