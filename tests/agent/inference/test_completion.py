from agent.inference.completion import Completion
from agent.inference.engine import Finish, Piece, Usage

USAGE = Usage(prompt_tokens=1)


def test_tokens_travel_with_the_text_that_they_completed() -> None:
    answer = Completion([], limit=10)
    smile = "🙂".encode()
    assert answer.add(1, smile[:2]) is None
    assert answer.piece() is None
    assert answer.add(2, smile[2:]) is None
    assert answer.piece() == Piece("🙂", (1, 2))
    assert answer.piece() is None


def test_the_last_piece_has_what_was_held_back() -> None:
    answer = Completion(["END"], limit=2)
    assert answer.add(1, b"at the E") is None
    assert answer.piece() == Piece("at the ", (1,))
    assert answer.add(2, b"") is Finish.LENGTH
    assert answer.last(Finish.LENGTH, USAGE) == Piece("E", (2,), Finish.LENGTH, USAGE)


def test_text_before_a_stop_string_is_not_lost() -> None:
    answer = Completion(["END"], limit=10)
    assert answer.add(1, b"the END of it") is Finish.STOP
    assert answer.last(Finish.STOP, USAGE) == Piece("the ", (1,), Finish.STOP, USAGE)


def test_a_loop_ends_before_the_limit_does() -> None:
    answer = Completion([], limit=1000)
    finishes = [answer.add(7, b"ha ") for _ in range(64)]
    assert finishes == [None] * 63 + [Finish.LOOP]
