"""Reading small files of /proc and /sys, which may be missing, unreadable, empty or nonsense.

On one board a sensor's file is not there, on another it answers EAGAIN while its unit is powered
down, and in a container the whole folder is masked. All of that means one thing to a reader of
telemetry: not known here. So these functions return None, and nobody mistakes an absent value for
zero.
"""

import os
import re
from pathlib import Path

# Nothing read here is longer, except /proc/cpuinfo of a large machine, of which the head is enough.
_MOST_BYTES = 1 << 16
_INTEGER = re.compile(rb"-?[0-9]{1,18}")


def read_bytes(path: Path | str) -> bytes | None:
    """Up to 64 KiB of the file; None when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        return os.read(descriptor, _MOST_BYTES)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def is_asleep(path: Path | str) -> bool:
    """Whether the file is there and answers EAGAIN: what it tells of is powered down."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        os.read(descriptor, 1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def read_text(path: Path | str) -> str | None:
    """The file's text without the white space and NULs around it; None when nothing is left."""
    data = read_bytes(path)
    if data is None:
        return None
    return data.decode("utf-8", "replace").strip("\x00 \t\r\n") or None


def read_int(path: Path | str, plausible: range | None = None) -> int | None:
    """The one decimal number that the file holds; None when it holds something else.

    A number outside ``plausible`` is nonsense of a driver or a bus, and None, too.
    """
    data = read_bytes(path)
    if data is None:
        return None
    text = data.strip(b"\x00 \t\r\n")
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and (plausible is None or number in plausible) else None


def children(folder: Path | str, pattern: str = "") -> list[str]:
    """The full paths of a folder's entries whose names match ``pattern``, in a natural order.

    The order keeps hwmon2 before hwmon10, so that what is listed does not move between samples.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return []
    wanted = re.compile(pattern)
    return [f"{folder}/{name}" for name in sorted(names, key=_natural) if wanted.match(name)]


def count_of(ranges: str) -> int | None:
    """How many numbers a kernel list such as "0-3,6" names; None when it is not such a list."""
    if not re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", ranges):
        return None
    total = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d{0,18})", name)]
