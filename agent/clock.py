"""When something happened, on boards whose wall clock may be years off.

Durations come from CLOCK_BOOTTIME, which runs through sleep and never jumps, and are comparable
only within one boot; ``boot_id`` says which. UTC is the device's best knowledge, for people.
"""

import time
from typing import Protocol

from jetson import boot
from protos.nanofleet.v1.job_pb2 import Moment


class Clock(Protocol):
    @property
    def boot_id(self) -> str: ...

    def boottime_ns(self) -> int: ...

    def utc_ns(self) -> int: ...


class SystemClock:
    def __init__(self) -> None:
        self._boot_id = boot.boot_id()

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def boottime_ns(self) -> int:
        return boot.boottime_ns()

    def utc_ns(self) -> int:
        return time.time_ns()


def moment(clock: Clock) -> Moment:
    return Moment(boot_id=clock.boot_id, boottime_ns=clock.boottime_ns(), utc_ns=clock.utc_ns())
