from collections.abc import Iterator

import pytest

from agent.inference.turn import Turn


def ticking(*times_s: float) -> Iterator[float]:
    yield from times_s


def test_only_the_time_of_the_engine_is_counted() -> None:
    times = ticking(0.0, 2.0, 10.0, 10.5, 100.0, 100.5)
    turn = Turn(None, 0, [1, 2, 3], cached=1, clock=lambda: next(times))
    assert turn.held == [1]
    with turn.prefill:
        turn.held += [2, 3]
    for token in (4, 5):
        with turn.decode:
            turn.held.append(token)
    usage = turn.usage(completion_tokens=3)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 1, 3)
    assert (usage.prefill_s, usage.decode_s) == (2.0, 1.0)
    # The first token comes from the prefill: two were decoded for three.
    assert usage.decode_tokens_per_s == pytest.approx(2.0)


def test_a_request_without_a_token_has_no_speed() -> None:
    turn = Turn(None, 0, [1, 2, 3], cached=0, clock=lambda: 0.0)
    assert turn.usage(completion_tokens=0).decode_tokens_per_s == 0.0
