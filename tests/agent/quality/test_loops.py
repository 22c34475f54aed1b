import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.quality.loops import LONGEST_PERIOD, REPEATS, SHORTEST_SPAN, tail_period

SENTENCE = list(range(100, 117))


def test_text_without_repeats_is_no_loop() -> None:
    assert tail_period(range(1000)) == 0


@pytest.mark.parametrize("period", [1, 2, 5, 16, 17, 31, LONGEST_PERIOD])
def test_a_passage_again_and_again_is_found_with_its_length(period: int) -> None:
    span = max(SHORTEST_SPAN, REPEATS * period)
    passage = list(range(period))
    tail = (passage * span)[:span]
    assert tail_period([900, 901, *tail]) == period
    assert tail_period([900, 901, *tail][:-1]) == 0


@pytest.mark.parametrize(
    "answer",
    [
        [7] * 60,
        [1, 2] * 20,
        SENTENCE * 3,
        [*SENTENCE, 1, *SENTENCE, 2, *SENTENCE, 3, *SENTENCE, 4, *SENTENCE, 5],
    ],
    ids=["a rule of sixty dashes", "ha ha ha", "a refrain sung three times", "a numbered list"],
)
def test_repeats_of_correct_answers_are_no_loop(answer: list[int]) -> None:
    assert tail_period([3, 1, 4, *answer]) == 0


def test_a_period_beyond_the_longest_is_left_alone() -> None:
    assert tail_period(list(range(LONGEST_PERIOD + 1)) * 20) == 0


def test_a_loop_that_was_left_again_is_over() -> None:
    assert tail_period([5] * 200 + [6]) == 0


@given(st.lists(st.integers(0, 3), max_size=300))
def test_a_found_period_is_true(tokens: list[int]) -> None:
    period = tail_period(tokens)
    if period:
        tail = tokens[-max(SHORTEST_SPAN, REPEATS * period) :]
        assert all(tail[i] == tail[i - period] for i in range(period, len(tail)))
