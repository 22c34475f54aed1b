import pytest

from agent.inference.turn import Turn


def test_the_first_token_comes_from_the_prefill() -> None:
    turn = Turn(None, 0, [1, 2, 3], cached=1)
    assert (turn.held, turn.pending, turn.is_decoding) == ([1], [2, 3], False)
    turn.computed(2)
    turn.spend(2.0, decoding=False)
    for token in (4, 5):
        turn.pending = [token]
        assert turn.is_decoding
        turn.computed(1)
        turn.spend(0.5, decoding=True)
    assert (turn.held, turn.pending) == ([1, 2, 3, 4, 5], [])
    usage = turn.usage(completion_tokens=3)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 1, 3)
    assert (usage.prefill_s, usage.decode_s) == (2.0, 1.0)
    # Two were decoded for three.
    assert usage.decode_tokens_per_s == pytest.approx(2.0)


def test_a_request_without_a_token_has_no_speed() -> None:
    turn = Turn(None, 0, [1, 2, 3], cached=0)
    assert turn.usage(completion_tokens=0).decode_tokens_per_s == 0.0
