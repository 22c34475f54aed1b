"""Which boot this is, and how long ago it was: what times on a board without a clock hang on."""

import time
from pathlib import Path

from jetson.sysfs import read_text


def boot_id(root: Path = Path("/")) -> str:
    """Random, made by the kernel at each boot; empty where it cannot be read."""
    return read_text(root / "proc/sys/kernel/random/boot_id") or ""


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: never set by anybody, and goes on while the board sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
