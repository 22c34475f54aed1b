"""This machine's clock for leases: CLOCK_BOOTTIME, and which boot it belongs to.

Every command is a process of its own, so what one has granted another must be able to count from:
the time of day may be set, and a process's own clock ends with it. This one runs through sleep and
is the same for all processes until the machine is booted again.
"""

import time
from pathlib import Path

from protos.errors import Refused
from protos.lease import Instant

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now() -> Instant:
    """Raises Refused where the system has no such clock."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
        return Instant(boot_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    except (OSError, AttributeError):
        raise Refused(
            "Jobs with `on_lost: move` need a controller on Linux.",
            why="Only there is a clock that tells when a lease is certainly over.",
            fix="Submit the job with `on_lost: wait`, or from a Linux machine.",
        ) from None
