"""A mebibyte of the disk that is kept for one moment: the start of an agent whose disk is full.

An agent that finds a job interrupted must write that down before it answers, and it is needed to
make room: only through it are artifacts deleted. So it keeps a file that says nothing, gives it up
when it starts with less than that much free, and makes it again when there is room.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from artifacts import durable, headroom
from artifacts.persisting import Point
from protos.errors import DiskFull

_LOG = logging.getLogger(__name__)

FILE = "ballast"
# Settling the jobs takes some tens of KiB, and SQLite's shared index 32.
SIZE_BYTES = 1 << 20
# What else must be free: a ballast that takes the last room would make the need it is for.
_SPARE_BYTES = 4 * SIZE_BYTES
_PERIOD_S = 60.0


class Ballast:
    def __init__(
        self, state: Path, free_bytes: Callable[[Path], int] = headroom.free_bytes
    ) -> None:
        self._path = state / FILE
        self._free_bytes = free_bytes

    def give_up_if_needed(self) -> None:
        """Before anything is written."""
        if self._path.exists() and self._free() < SIZE_BYTES:
            durable.remove(self._path, Point.BALLAST_GIVEN_UP)
            _LOG.warning("the disk is full: %s was given up for this start", self._path)

    def restore(self) -> None:
        """Makes it when it is not there and there is room."""
        if self._path.exists() or self._free() < SIZE_BYTES + _SPARE_BYTES:
            return
        try:
            with (
                headroom.naming_disk_faults(self._path.parent),
                durable.replacing(self._path, Point.BALLAST_MADE) as file,
            ):
                os.posix_fallocate(file.fileno(), 0, SIZE_BYTES)
        except DiskFull as error:
            _LOG.warning("no room is kept for the next start: %s", error)

    async def keep(self) -> None:
        """Makes it again when room has come, until it is cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            await asyncio.to_thread(self.restore)

    def _free(self) -> int:
        return self._free_bytes(self._path.parent)
