"""The doctor's checks of what the agent needs to run at all: folder, identity, clock, port."""

import os
import socket
import stat
from datetime import datetime, timezone
from pathlib import Path

from agent import lock
from agent.doctor import probe
from agent.doctor.findings import Found, Site, fail, ok, warn
from protos.errors import Unreachable, WorkerFailed

# No sample, certificate or release of nanofleet is older: a clock before it was never set.
EARLIEST_UTC_S = datetime(2025, 6, 1, tzinfo=timezone.utc).timestamp()
# Below /; Jetson's, and those of a GPU with a driver of the kernel's own.
_GPU_DEVICES = ("dev/nvmap", "dev/dri/renderD128", "dev/nvidiactl")


def state_folder(site: Site) -> Found:
    if not site.state.is_dir():
        return fail(f"{site.state} is not a folder")
    if not os.access(site.state, os.W_OK | os.X_OK):
        return fail(f"{site.state} cannot be written by this user")
    return ok(str(site.state))


def key(site: Site) -> Found:
    path = site.state / "identity" / "key.pem"
    if not path.exists():
        return warn("no key: this device has not joined a fleet")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return fail(f"{path} can be read by others (mode {mode:04o})")
    return ok("private")


def certificate(site: Site) -> Found:
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


def ownership(site: Site) -> Found:
    """Who joins as root leaves a key that the service's user cannot read."""
    if not site.state.is_dir():
        return ok("there are no files yet")
    owner = site.state.stat().st_uid
    strange = sorted(
        str(path.relative_to(site.state))
        for path in (site.state, *site.state.glob("*"), *site.state.glob("identity/*"))
        if path.lstat().st_uid != owner
    )
    if strange:
        return fail(f"{', '.join(strange)}: not of the user that {site.state} belongs to")
    closed = [name for name in _GPU_DEVICES if not _may_open(site.root / name)]
    if closed:
        return warn(f"this user may not open {', '.join(closed)}: no GPU for it")
    return ok("all files belong to one user")


def clock(site: Site) -> Found:
    now_s = site.utc_s()
    text = datetime.fromtimestamp(now_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if now_s < EARLIEST_UTC_S:
        return warn(f"{text} cannot be: it was never set since power came")
    joined = site.state / "identity" / "chain.pem"
    if joined.exists() and now_s + 60 < joined.stat().st_mtime:
        return warn(f"{text} is before the time when this device joined its fleet")
    return ok(text)


def port(site: Site) -> Found:
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


def _may_open(device: Path) -> bool:
    return not device.exists() or os.access(device, os.R_OK | os.W_OK)


def _date(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, timezone.utc).strftime("%Y-%m-%d")
