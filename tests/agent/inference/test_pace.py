"""When a client that finds no place should come again."""

import pytest

from agent.inference.pace import LEAST_S, UNKNOWN_S, Pace


def test_nothing_is_known_before_the_first_request_has_ended() -> None:
    assert Pace().retry_after_s(1) == UNKNOWN_S


def test_half_of_the_line_goes_first() -> None:
    pace = Pace()
    pace.note(3.0)
    assert pace.retry_after_s(32) == pytest.approx(16 * 3.0)
    together = Pace(streams=4)
    together.note(3.0)
    assert together.retry_after_s(32) == pytest.approx(16 * 3.0 / 4)


def test_it_follows_the_requests() -> None:
    pace = Pace()
    for _ in range(50):
        pace.note(10.0)
    for _ in range(50):
        pace.note(1.0)
    assert pace.retry_after_s(2) == pytest.approx(1.0, rel=0.01)


def test_an_instant_is_no_wait() -> None:
    pace = Pace()
    pace.note(1e-6)
    assert pace.retry_after_s(32) == LEAST_S
