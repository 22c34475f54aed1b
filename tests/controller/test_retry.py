"""Trying again: full jitter, bounded, only what is retryable; no clock is waited for."""

import pytest

from controller import ulid
from controller.retry import Retry
from protos.errors import Busy, NotFound, Unreachable


class Waits:
    """Stands for the clock: remembers what was waited, and draws the upper bound."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def retry(self, attempts: int | None) -> Retry:
        return Retry(attempts, first_s=1.0, cap_s=5.0, draw=lambda _, top: top, sleep=self.sleep)


class Failing:
    """Fails so many times, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)

    async def __call__(self) -> str:
        if self._failures:
            raise self._failures.pop(0)
        return "answer"


async def test_waits_double_up_to_the_cap() -> None:
    waits = Waits()
    operation = Failing(*[Unreachable("gone")] * 5)
    assert await waits.retry(attempts=6).call(operation) == "answer"
    assert waits.seconds == [1.0, 2.0, 4.0, 5.0, 5.0]


async def test_gives_up_with_the_last_error() -> None:
    waits = Waits()
    with pytest.raises(Unreachable, match="second"):
        await waits.retry(attempts=2).call(Failing(Unreachable("first"), Unreachable("second")))
    assert waits.seconds == [1.0]


async def test_what_is_not_retryable_is_raised_at_once() -> None:
    waits = Waits()
    with pytest.raises(NotFound):
        await waits.retry(attempts=5).call(Failing(NotFound("no")))
    assert waits.seconds == []


async def test_a_device_that_says_when_is_heeded() -> None:
    waits = Waits()
    await waits.retry(attempts=None).call(Failing(Busy("later", retry_after_s=30)))
    assert waits.seconds == [31.0]


def test_the_jitter_is_full() -> None:
    drawn = {Retry(attempts=2, first_s=1.0).wait_s(1, Unreachable("")) for _ in range(50)}
    assert min(drawn) < 0.3
    assert max(drawn) > 0.7
    assert max(drawn) <= 1.0


def test_ulids_sort_by_time_and_differ() -> None:
    times_ns = iter(ms * 1_000_000 for ms in (0, 1, 1_700_000_000_000, 2**48 - 1))
    ids = [ulid.new(lambda: next(times_ns)) for _ in range(4)]
    assert ids == sorted(ids)
    assert {len(text) for text in ids} == {26}
    assert ids[0].startswith("0000000000")
    assert ids[-1].startswith("7ZZZZZZZZZ")
    assert len({ulid.new(lambda: 0) for _ in range(100)}) == 100
