"""What the doctor's checks look at, and what they return."""

import enum
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Level(enum.IntEnum):
    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Site:
    """The device to look at."""

    state: Path
    port: int = 7401
    root: Path = Path("/")
    # The interpreter that has the engines.
    python: str = sys.executable
    utc_s: Callable[[], float] = time.time
    # A base model of 1B parameters, and an upload of the next one beside it.
    comfortable_disk_bytes: int = 3_000_000_000
    least_disk_bytes: int = 500_000_000
    # Of the journal's commits, and of a checkpoint.
    slow_sync_ms: float = 100.0
    slow_write_mb_s: float = 10.0
    # In one piece: the scratch buffer of a head, or the cache of a long context.
    probed_bytes: int = 640 << 20
    # The inference engine of the settings.
    engine: str = "llama"


@dataclass(frozen=True, slots=True)
class Found:
    level: Level
    text: str


def ok(text: str) -> Found:
    return Found(Level.OK, text)


def warn(text: str) -> Found:
    return Found(Level.WARN, text)


def fail(text: str) -> Found:
    return Found(Level.FAIL, text)
