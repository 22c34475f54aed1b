"""One conversion in a process of its own, alone or as what it is compared with.

    python -m benchmarks.conversion model FOLDER TARGET TYPE
    python -m benchmarks.conversion adapter FOLDER TARGET BASE
    python -m benchmarks.conversion copy FOLDER TARGET BYTES

Prints JSON: seconds, without Python's start and its imports, and the most memory that was resident,
with them. A conversion is unproved here: the proof's memory and time are those of the real command.
``copy`` reads the weights of the folder and writes as many bytes as the file has, synced.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from artifacts.convert import FileType, convert_adapter, convert_model

_BUFFER_BYTES = 8 << 20


def model(folder: Path, target: Path, file_type: str) -> None:
    convert_model(folder, target, FileType(file_type))


def adapter(folder: Path, target: Path, base: str) -> None:
    convert_adapter(folder, Path(base), target)


def copy(folder: Path, target: Path, size_bytes: str) -> None:
    left, buffer = int(size_bytes), bytearray(_BUFFER_BYTES)
    with target.open("wb", buffering=0) as out:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    left -= out.write(memoryview(buffer)[: min(count, left)])
        while left:
            left -= out.write(memoryview(buffer)[: min(_BUFFER_BYTES, left)])
        os.fsync(out.fileno())


WORK: dict[str, Callable[[Path, Path, str], None]] = {
    "model": model,
    "adapter": adapter,
    "copy": copy,
}


def peak_rss_bytes(status: Path) -> int:
    """The kernel's own high-water mark of a process."""
    return kilobytes(status.read_text(), "VmHWM") * 1024


def kilobytes(status: str, key: str) -> int:
    """A line of proc_pid_status(5); 0 when the process has ended."""
    for line in status.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    what, *places, last = sys.argv[1:]
    began_s = time.perf_counter()
    WORK[what](Path(places[0]), Path(places[1]), last)
    seconds = time.perf_counter() - began_s
    peak = peak_rss_bytes(Path("/proc/self/status"))
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}))
