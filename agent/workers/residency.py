"""A worker's own memory, anonymous and file-backed apart: only the first has to be there.

File-backed pages (the mapped base model) are clean, may be shared with the other worker, and are
dropped under pressure. The kernel keeps a peak of the whole resident set, none of its anonymous
part; so that one is watched, ten times a second. Swap is not counted.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")
_KEYS = {"RssAnon": "anonymous_bytes", "RssFile": "file_bytes", "VmHWM": "peak_rss_bytes"}
_PERIOD_S = 0.1


@dataclass(frozen=True, slots=True)
class Residency:
    anonymous_bytes: int
    file_bytes: int
    peak_rss_bytes: int


def measure(status: Path = STATUS) -> Residency:
    found = dict.fromkeys(_KEYS.values(), 0)
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key in _KEYS:
            found[_KEYS[key]] = int(value.split()[0]) * 1024
    return Residency(**found)


class AnonymousPeak:
    """Watches from ``with`` on; ``peak_bytes`` is the highest that was seen."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="residency", daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> "AnonymousPeak":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            self.note(measure())

    def note(self, now: Residency) -> None:
        self.peak_bytes = max(self.peak_bytes, now.anonymous_bytes)
