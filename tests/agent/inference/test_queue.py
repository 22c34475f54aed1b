import threading
from pathlib import Path

import pytest

from agent.inference.engine import Adapter, Request
from agent.inference.queue import LOOK_AHEAD, PATIENCE, RequestQueue
from protos.errors import Busy


def request(adapter: str = "") -> Request:
    return Request("hello", Adapter(adapter, Path("adapter.gguf")) if adapter else None)


def queue(*adapters: str) -> RequestQueue:
    filled = RequestQueue(clock=lambda: 0.0)
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
    small = RequestQueue(limit=2)
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
    empty = RequestQueue()
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
