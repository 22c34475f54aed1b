"""Where a conversation's beginning was read: the longest that is known, of the newest that are."""

from hypothesis import given
from hypothesis import strategies as st

from controller.gateway.prefixes import Prefixes, beginnings

TEXTS = st.lists(st.text(max_size=4), min_size=1, max_size=8)
MODEL = ("sha256:base", "")


@given(TEXTS, TEXTS, TEXTS)
def test_the_next_question_is_found_by_what_was_asked_before(
    asked: list[str], more: list[str], others: list[str]
) -> None:
    known = Prefixes()
    known.note(beginnings(MODEL, asked), "kitchen")
    assert known.device(beginnings(MODEL, asked + more)) == "kitchen"
    found = known.device(beginnings(MODEL, others))
    assert (found == "kitchen") == (others[: len(asked)] == asked)
    assert known.device(beginnings(("sha256:base", "sha256:adapter"), asked)) == ""


@given(TEXTS, TEXTS)
def test_the_longest_beginning_decides(asked: list[str], more: list[str]) -> None:
    known = Prefixes()
    known.note(beginnings(MODEL, asked), "kitchen")
    known.note(beginnings(MODEL, asked + more), "porch")
    assert known.device(beginnings(MODEL, [*asked, *more, "and now?"])) == "porch"


def test_how_texts_are_cut_belongs_to_them() -> None:
    assert beginnings(MODEL, ["ab", "c"])[-1] != beginnings(MODEL, ["a", "bc"])[-1]
    assert beginnings(MODEL, ["\ud800"]), "half a character is no reason to fail"


def test_the_longest_unused_is_forgotten() -> None:
    known = Prefixes(most=2)
    first, second, third = (beginnings(MODEL, [text]) for text in "abc")
    known.note(first, "a")
    known.note(second, "b")
    assert known.device(first) == "a"  # used
    known.note(third, "c")
    assert [known.device(one) for one in (first, second, third)] == ["a", "", "c"]
    assert len(known) == 2


def test_what_has_no_beginning_is_nowhere() -> None:
    known = Prefixes()
    known.note([], "kitchen")
    assert known.device([]) == ""
    assert len(known) == 0
