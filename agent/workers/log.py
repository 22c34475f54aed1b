"""What a worker prints, kept on disk within a bound, for the person who asks why it died.

A library in a loop of warnings must not fill the device's disk, and the last lines are the ones
that matter: two files of half the limit each, the older one dropped when the newer one is full.
"""

import contextlib
from pathlib import Path

LIMIT_BYTES = 1 << 20
TAIL_BYTES = 4 << 10


class BoundedLog:
    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._half_bytes = limit_bytes // 2
        self._file = path.open("ab", buffering=0)
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Never raises for the disk's sake: a full disk costs the log, not the worker."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        with contextlib.suppress(OSError):
            if self._file.tell() + len(data) > self._half_bytes:
                self._turn()
            self._file.write(data)

    def tail(self) -> str:
        """The last lines of this worker, whole."""
        text = self._tail.decode(errors="replace")
        return text.partition("\n")[2] if len(self._tail) == TAIL_BYTES else text

    def close(self) -> None:
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._path.open("ab", buffering=0)
