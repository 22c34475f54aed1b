"""Tokens per second as telemetry tells it: of now, or not at all."""

import pytest

from agent.serving.speed import WINDOW_S, Speed


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_was_generated(clock: Clock) -> None:
    assert Speed(clock).tokens_per_s() is None


def test_it_is_the_rate_of_the_last_moments(clock: Clock) -> None:
    speed = Speed(clock)
    for _ in range(100):
        clock.now_s += 0.1
        speed.note(1)
    assert speed.tokens_per_s() == pytest.approx(10)
    for _ in range(100):
        clock.now_s += 0.1
        speed.note(3)
    assert speed.tokens_per_s() == pytest.approx(30)


def test_it_is_gone_after_the_answer(clock: Clock) -> None:
    speed = Speed(clock)
    for _ in range(5):
        clock.now_s += 0.1
        speed.note(1)
    clock.now_s += WINDOW_S - 0.2
    assert speed.tokens_per_s() == pytest.approx(10)
    clock.now_s += 0.2
    assert speed.tokens_per_s() is None


def test_one_arrival_is_no_rate(clock: Clock) -> None:
    speed = Speed(clock)
    speed.note(7)
    speed.note(0)
    assert speed.tokens_per_s() is None
    speed.note(7)
    assert speed.tokens_per_s() is None, "no time has passed"
