"""When devices are looked at: when somebody asks, as seldom as may be, all askers together."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from controller import Fleet
from controller.fleet import NO_SIGHTINGS
from controller.gateway.roster import FRESH_S, LOOKS_PER_S, STALE_S, Roster
from controller.records import DeviceRecord, DeviceStatus, Sighting
from protos.errors import Unreachable
from protos.nanofleet.v1 import device_pb2


class Looks(Fleet):
    """Devices as the test says; each look is counted, and waits until it may end."""

    def __init__(self) -> None:
        self.looks = 0
        self.requests = 0
        self.names = ["kitchen"]
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def sightings(self, before: Mapping[str, Sighting] = NO_SIGHTINGS) -> list[Sighting]:
        self.looks += 1
        await self.may_end.wait()
        return [self._sighting(name) for name in self.names]

    def _sighting(self, name: str) -> Sighting:
        device = device_pb2.Device(name=name, requests=self.requests)
        status = DeviceStatus(DeviceRecord(name, "h:1", {}, 0, 0), True, device)
        return Sighting(status, frozenset({"sha256:base"}))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fleet() -> Looks:
    return Looks()


@pytest.fixture
async def roster(fleet: Looks, clock: Clock) -> AsyncIterator[Roster]:
    roster = Roster(fleet, clock)
    yield roster
    await roster.close()


async def test_nobody_asks_nobody_is_looked_at(roster: Roster, fleet: Looks) -> None:
    assert fleet.looks == 0
    assert [one.status.reachable for one in await roster.seen()] == [True]
    assert fleet.looks == 1


async def test_all_who_ask_at_once_share_a_look(roster: Roster, fleet: Looks) -> None:
    await asyncio.gather(*(roster.seen() for _ in range(50)))
    assert fleet.looks == 1


async def test_what_is_young_is_used_as_it_is(roster: Roster, fleet: Looks, clock: Clock) -> None:
    await roster.seen()
    clock.now_s += FRESH_S * 0.9
    await roster.seen()
    assert fleet.looks == 1


async def test_a_thousand_devices_are_looked_at_more_seldom(
    roster: Roster, fleet: Looks, clock: Clock
) -> None:
    fleet.names = [f"device-{number}" for number in range(1000)]
    await roster.seen()
    clock.now_s += 1000 / LOOKS_PER_S - 1
    await roster.seen()
    assert fleet.looks == 1
    clock.now_s += 1
    await roster.seen()
    await roster.seen_now()
    assert fleet.looks == 2


async def test_what_is_older_is_used_and_renewed(
    roster: Roster, fleet: Looks, clock: Clock
) -> None:
    await roster.seen()
    fleet.may_end.clear()
    clock.now_s += FRESH_S
    assert len(await roster.seen()) == 1, "without waiting"
    assert len(await roster.seen()) == 1
    fleet.may_end.set()
    await roster.seen_now()
    assert fleet.looks == 2


async def test_what_is_too_old_is_waited_for(roster: Roster, fleet: Looks, clock: Clock) -> None:
    await roster.seen()
    fleet.may_end.clear()
    clock.now_s += STALE_S
    asking = asyncio.create_task(roster.seen())
    done, _ = await asyncio.wait([asking], timeout=0)
    assert not done
    fleet.may_end.set()
    assert len(await asking) == 1


async def test_who_leaves_does_not_end_the_look_of_the_others(roster: Roster, fleet: Looks) -> None:
    fleet.may_end.clear()
    leaving, staying = (asyncio.create_task(roster.seen()) for _ in range(2))
    await asyncio.wait([leaving, staying], timeout=0)
    leaving.cancel()
    fleet.may_end.set()
    assert len(await staying) == 1
    assert fleet.looks == 1


async def test_a_lost_device_is_away_until_the_next_look(
    roster: Roster, fleet: Looks, clock: Clock
) -> None:
    await roster.seen()
    roster.lost("kitchen", Unreachable("Cannot reach it."))
    roster.lost("unknown", Unreachable("Cannot reach it."))
    (lost,) = await roster.seen()
    assert (lost.status.reachable, lost.status.problem) == (False, "Cannot reach it.")
    assert lost.held == {"sha256:base"}
    assert [one.status.reachable for one in await roster.seen_now()] == [True]


async def test_requests_from_here_are_counted_once(
    roster: Roster, fleet: Looks, clock: Clock
) -> None:
    def requests(seen: list[Sighting]) -> int:
        (candidate,) = roster.candidates(seen, "")
        return candidate.requests

    with roster.engaged("kitchen"):
        fleet.requests = 3  # the device tells of it, too
        seen = await roster.seen()
        assert requests(seen) == 3
        with roster.engaged("kitchen"):
            assert requests(seen) == 4
    assert requests(seen) == 2, "those of others"
    assert roster.candidates(seen, "kitchen")[0].is_warm
