"""Attempts that were told to stop: who gets time, and who is ended."""

import asyncio

import pytest

from agent.jobs.patience import Patience, settled

_HARDLY = Patience(silence_s=0.02, most_s=30)


class Attempt:
    """``silences``: what is seen at one look after the other; then it settles."""

    def __init__(self, *silences: float | None) -> None:
        self.settled = asyncio.Event()
        self.is_killed = False
        self._silences = list(silences)

    @property
    def silent_s(self) -> float | None:
        seen = self._silences.pop(0)
        if not self._silences:
            self.settled.set()
        return seen

    def kill(self) -> None:
        self.is_killed = True
        self.settled.set()


async def test_a_worker_that_gets_somewhere_has_its_time() -> None:
    attempt, waits = Attempt(0, 0.01, 0.01, 0), list[float]()
    await settled(attempt, _HARDLY, waits.append)
    assert not attempt.is_killed
    assert waits == [0.02] * 4


@pytest.mark.parametrize("silences", [(0, 0.03, 0), (0, None, 0)])
async def test_one_that_is_silent_or_not_there_is_ended(silences: tuple[float | None, ...]) -> None:
    attempt = Attempt(*silences)
    await settled(attempt, _HARDLY)
    assert attempt.is_killed


async def test_one_that_spins_is_ended_in_the_end() -> None:
    attempt = Attempt(*[0] * 1000)
    await settled(attempt, Patience(silence_s=0.01, most_s=0.05))
    assert attempt.is_killed


async def test_one_that_has_settled_is_left_alone() -> None:
    attempt = Attempt()
    attempt.settled.set()
    await settled(attempt, _HARDLY)
    assert not attempt.is_killed
