"""Attempts that were told to stop: who gets time, and who is given up."""

import asyncio

import pytest

from agent.jobs.patience import Patience, stopped

_HARDLY = Patience(silence_s=0.02, stall_s=0.1)


class Attempt:
    """``looks``: for how long it was silent and stalled, at one look after the other; after the
    last one it is over."""

    def __init__(self, *looks: tuple[float | None, float | None]) -> None:
        self.over = asyncio.Event()
        self.given_up = 0
        self._looks = list(looks)
        self._stalled_s: float | None = None

    @property
    def silent_s(self) -> float | None:
        silent_s, self._stalled_s = self._looks.pop(0)
        if not self._looks:
            self.over.set()
        return silent_s

    @property
    def stalled_s(self) -> float | None:
        return self._stalled_s

    def give_up(self) -> None:
        self.given_up += 1


async def test_a_worker_that_gets_somewhere_has_its_time() -> None:
    """However long it takes in all."""
    attempt, waits = Attempt(*[(0.01, 0.09)] * 20), list[float]()
    await stopped(attempt, attempt.over, _HARDLY, waits.append)
    assert not attempt.given_up
    assert waits == [0.02] * 20


async def test_where_there_is_no_worker_nobody_is_given_up() -> None:
    attempt = Attempt((None, None), (None, None))
    await stopped(attempt, attempt.over, _HARDLY)
    assert not attempt.given_up


@pytest.mark.parametrize("look", [(0.03, 0.03), (0.0, 0.1)], ids=["silent", "spins"])
async def test_one_that_gets_nowhere_is_given_up(look: tuple[float, float]) -> None:
    attempt = Attempt((0.0, 0.0), look, look)
    await stopped(attempt, attempt.over, _HARDLY)
    assert attempt.given_up == 2, "at each look, for the first may have come too early"


async def test_one_that_is_over_is_left_alone() -> None:
    attempt = Attempt()
    attempt.over.set()
    await stopped(attempt, attempt.over, _HARDLY)
    assert not attempt.given_up
