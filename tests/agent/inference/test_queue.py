import threading
import time
from pathlib import Path

import pytest

from agent.inference.engine import Adapter, Request
from agent.inference.pace import Pace
from agent.inference.queue import LOOK_AHEAD, PATIENCE, Priority, RequestQueue, Ticket
from protos.errors import Busy
from tests.agent.clocks import Clock


def request(adapter: str = "") -> Request:
    return Request("hello", Adapter(adapter, Path("adapter.gguf")) if adapter else None)


def queue(*adapters: str) -> RequestQueue:
    filled = RequestQueue(Pace(), clock=lambda: 0.0)
    for request_id, adapter in enumerate(adapters):
        filled.put(request_id, request(adapter))
    return filled


def order(filled: RequestQueue, count: int) -> list[int]:
    tickets = [filled.take() for _ in range(count)]
    return [ticket.request_id for ticket in tickets if ticket]


def test_first_come_first_served_without_adapters() -> None:
    assert order(queue("", "", ""), 3) == [0, 1, 2]


def test_the_adapter_that_is_set_goes_on() -> None:
    assert order(queue("a", "b", "a", "b", "a"), 5) == [0, 2, 4, 1, 3]


def test_the_first_in_line_waits_for_a_bounded_number_of_others() -> None:
    assert order(queue("a", "b", *["a"] * 10), 7) == [0, 2, 3, 4, 5, 1, 6]
    assert PATIENCE == 4


def test_only_the_next_few_may_overtake() -> None:
    far = ["b"] * LOOK_AHEAD
    assert order(queue("a", *far, "a"), 2) == [0, 1]


def test_a_full_queue_says_when_to_come_back() -> None:
    small = RequestQueue(Pace(), limit=2)
    small.put(1, request())
    small.put(2, request())
    with pytest.raises(Busy) as raised:
        small.put(3, request())
    assert raised.value.reason == "BUSY"
    assert raised.value.retry_after_s


def test_a_waiting_request_is_removed_and_returned() -> None:
    filled = queue("", "", "")
    canceled = filled.cancel(1)
    assert canceled
    assert canceled.request_id == 1
    assert order(filled, 2) == [0, 2]


def test_a_running_request_is_told_by_its_event() -> None:
    filled = queue("")
    running = filled.take()
    assert running
    assert filled.cancel(0) is None
    assert running.cancelled.is_set()


def test_a_request_that_is_over_is_no_longer_canceled() -> None:
    assert queue("").cancel(99) is None


def test_take_waits_for_a_request_from_another_thread() -> None:
    empty = RequestQueue(Pace())
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.extend(order(empty, 1)))
    thread.start()
    empty.put(5, request())
    thread.join(timeout=10)
    assert taken == [5]


def test_closing_ends_the_running_request_and_the_waiting() -> None:
    filled = queue("", "")
    running = filled.take()
    assert running
    filled.close()
    assert running.cancelled.is_set()
    assert filled.take() is None


def ids(tickets: list[Ticket]) -> list[int]:
    return [ticket.request_id for ticket in tickets]


def test_a_higher_priority_goes_first_and_an_adapter_only_within_its_own() -> None:
    filled = queue("a")
    running = filled.take()
    assert running
    filled.put(1, request("b"), Priority.LOW)
    filled.put(2, request("a"), Priority.LOW)
    filled.put(3, request("b"))
    filled.put(4, request("b"), Priority.HIGH)
    filled.put(5, request("a"))
    assert order(filled, 5) == [4, 3, 5, 2, 1]


def test_whose_deadline_has_passed_is_not_taken() -> None:
    clock = Clock()
    filled = RequestQueue(Pace(), clock=clock)
    filled.put(1, request(), deadline_s=clock.now_s + 5.0)
    filled.put(2, request(), deadline_s=clock.now_s + 50.0)
    filled.put(3, request())
    assert ids(filled.late()) == []
    clock.advance(5.0)
    taken = filled.take()
    assert taken
    assert taken.request_id == 2
    clock.advance(100.0)
    assert ids(filled.late()) == [1], "what runs is not cut off"
    assert order(filled, 1) == [3]


def test_a_deadline_is_told_when_it_passes() -> None:
    filled = RequestQueue(Pace())
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.extend(ids(filled.expired())))
    thread.start()
    filled.put(1, request())
    filled.put(2, request(), deadline_s=time.monotonic() + 0.01)
    thread.join(timeout=10)
    assert told == [2]
    filled.close()
    assert filled.expired() == []


def test_only_its_like_runs_beside_a_request() -> None:
    filled = queue("a", "b", "a", "a")
    running = filled.take()
    assert running
    beside = filled.take_beside(running)
    assert beside
    assert beside.request_id == 2
    filled.put_back(beside)
    assert ids([t for t in (filled.take_beside(running),) if t]) == [2]
    filled.put(9, request("b"), Priority.HIGH)
    assert filled.take_beside(running) is None, "whose turn it is has another adapter"


def test_a_canceled_request_of_several_is_told_alone() -> None:
    filled = queue("", "")
    running = [filled.take(), filled.take()]
    assert filled.cancel(1) is None
    assert [ticket.cancelled.is_set() for ticket in running if ticket] == [False, True]
