"""A thread that follows a writer does all of it, keeps its distance, hands on what it raises."""

import threading

import pytest

from artifacts.trail import Trail


def test_it_does_all_that_was_written_in_order() -> None:
    steps: list[tuple[int, int]] = []

    def step(done: int, written: int) -> int:
        steps.append((done, written))
        return min(done + 10, written)

    reached = 5

    trail = Trail("test", step, done=5, written=20)
    for written in range(30, 101, 10):
        trail.grown_to(written)
    trail.complete()
    trail.close()
    for done, written in steps:
        assert done == reached
        reached = min(done + 10, written)
    assert reached == 100


def test_little_waits_for_more_or_for_the_end() -> None:
    steps: list[int] = []
    trail = Trail("test", lambda done, written: steps.append(written) or written, least=100)
    trail.grown_to(99)
    trail.wait_within(99)
    assert steps == []
    trail.grown_to(100)
    trail.wait_within(0)
    trail.grown_to(101)
    trail.complete()
    assert steps == [100, 101]


def test_the_writer_waits_when_it_is_too_far_ahead() -> None:
    allowed, ahead = threading.Event(), threading.Event()

    def step(done: int, written: int) -> int:
        allowed.wait()
        return written

    trail = Trail("test", step)
    trail.grown_to(10)
    waiting = threading.Thread(target=lambda: (trail.wait_within(5), ahead.set()))
    waiting.start()
    assert not ahead.is_set()
    allowed.set()
    waiting.join()
    assert ahead.is_set()
    trail.close()


def test_what_it_raises_reaches_the_writer() -> None:
    def step(done: int, written: int) -> int:
        raise OSError(28, "No space left on device")

    trail = Trail("test", step)
    trail.grown_to(10)
    for call in (lambda: trail.wait_within(5), trail.complete):
        with pytest.raises(OSError, match="No space"):
            call()
    trail.close()
