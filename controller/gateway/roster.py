"""What is known of the devices: as they were last seen, and how many requests each has.

Nobody asks, nobody is polled. A request takes what is known when that is young enough, and has it
renewed behind its back; only after a longer pause it waits for the devices, all at once. What a
request learns by itself (that a device is away) is noted at once.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from controller import Fleet
from controller.gateway.routing import Candidate
from controller.records import DeviceStatus, Sighting
from protos.errors import NanofleetError

_LOG = logging.getLogger(__name__)

# Younger than this: used as it is. Older: used, and renewed. Older than the second: waited for.
FRESH_S = 2.0
STALE_S = 30.0
# Of a large fleet the looks are bounded instead: a thousand devices are looked at every 20 s. What
# is asked of them from here is known all the same.
LOOKS_PER_S = 50


class Roster:
    """Of one event loop; ``close`` it there."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._clock = clock
        self._seen: dict[str, Sighting] = {}
        self._seen_s: float | None = None
        # Requests from here, and those from elsewhere when the devices were seen.
        self._ours: Counter[str] = Counter()
        self._others: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    async def seen(self) -> list[Sighting]:
        """The devices, as old as they may be."""
        age_s, fresh_s = self._age_s(), max(FRESH_S, len(self._seen) / LOOKS_PER_S)
        if age_s >= fresh_s:
            looking = self._look()
            if age_s >= max(STALE_S, 2 * fresh_s):
                await asyncio.shield(looking)
        return list(self._seen.values())

    async def seen_now(self) -> list[Sighting]:
        """As they are: for who would give up otherwise."""
        await asyncio.shield(self._look())
        return list(self._seen.values())

    def candidates(self, sightings: Sequence[Sighting], warm: str) -> list[Candidate]:
        """For the routing; ``warm`` is the device that has the conversation's beginning."""
        names = [sighting.status.record.name for sighting in sightings]
        return [
            Candidate(sighting, self._ours[name] + self._others.get(name, 0), name == warm)
            for name, sighting in zip(names, sightings, strict=True)
        ]

    @contextmanager
    def engaged(self, device: str) -> Iterator[None]:
        """Around a request to the device."""
        self._ours[device] += 1
        try:
            yield
        finally:
            self._ours[device] -= 1

    def lost(self, device: str, error: NanofleetError) -> None:
        """It could not be reached just now; the next look says whether it is back."""
        known = self._seen.get(device)
        if known is not None:
            away = DeviceStatus(known.status.record, reachable=False, problem=str(error))
            self._seen[device] = Sighting(away, known.held)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _age_s(self) -> float:
        return float("inf") if self._seen_s is None else self._clock() - self._seen_s

    def _look(self) -> "asyncio.Task[None]":
        """One look at a time serves all who want one."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._renew(), name="look at the devices")
            self._looking.add_done_callback(_noted)
        return self._looking

    async def _renew(self) -> None:
        found = await self._fleet.sightings(self._seen)
        self._seen = {sighting.status.record.name: sighting for sighting in found}
        self._others = {
            name: max(0, sighting.status.device.requests - self._ours[name])
            for name, sighting in self._seen.items()
            if sighting.status.device is not None
        }
        self._seen_s = self._clock()


def _noted(looking: "asyncio.Task[None]") -> None:
    """Maybe nobody has waited for it."""
    if not looking.cancelled() and (error := looking.exception()) is not None:
        _LOG.warning("the devices could not be looked at: %s", error)
