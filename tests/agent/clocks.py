"""A clock that stands where a test puts it."""

from dataclasses import dataclass


@dataclass
class FakeClock:
    boot_id: str = "boot-1"
    now_ns: int = 1_000

    def boottime_ns(self) -> int:
        return self.now_ns

    def utc_ns(self) -> int:
        return self.now_ns + 10**18


class Clock:
    """Seconds, in the place of ``time.monotonic``."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
