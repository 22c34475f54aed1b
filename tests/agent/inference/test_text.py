import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.text import TextStream


def fed(stream: TextStream, data: bytes, step: int) -> list[str]:
    """The texts that come out when ``data`` goes in by ``step`` bytes; stops as an engine does."""
    out = []
    for at in range(0, len(data), step):
        out.append(stream.feed(data[at : at + step]))
        if stream.stopped:
            return out
    return [*out, stream.rest()]


@pytest.mark.parametrize("text", ["héllo", "नमस्ते", "你好，世界", "👩‍👩‍👧 ok", "a\u0301"])
def test_characters_of_several_bytes_are_never_split(text: str) -> None:
    out = fed(TextStream([]), text.encode(), 1)
    assert "".join(out) == text
    assert not any("\ufffd" in piece for piece in out)


def test_half_a_character_at_the_end_is_dropped() -> None:
    stream = TextStream([])
    assert stream.feed("ab🙂".encode()[:-1]) == "ab"
    assert stream.rest() == ""


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert TextStream([]).feed(b"a\xffb") == "a\ufffdb"


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert TextStream([]).feed(b"END") == "END"


def test_a_stop_string_across_pieces_is_not_shown() -> None:
    stream = TextStream(["STOP"])
    assert [stream.feed(part) for part in (b"go S", b"T", b"OP it")] == ["go ", "", ""]
    assert stream.stopped


def test_what_only_looked_like_a_stop_string_is_shown_later() -> None:
    stream = TextStream(["STOP"])
    assert [stream.feed(part) for part in (b"ST", b"ST", b"ART")] == ["", "ST", "START"]
    assert not stream.stopped


def test_the_end_of_the_answer_releases_what_was_held_back() -> None:
    stream = TextStream(["\n\n"])
    assert stream.feed(b"line\n") == "line"
    assert stream.rest() == "\n"


def test_the_earliest_of_several_stop_strings_counts() -> None:
    stream = TextStream(["three", "two"])
    assert stream.feed(b"one two three") == "one "


ALPHABET = st.text(alphabet="ab🙂é", max_size=30)


@given(ALPHABET, st.lists(st.text(alphabet="ab🙂é", min_size=1, max_size=4), max_size=3))
def test_the_steps_do_not_matter(text: str, stops: list[str]) -> None:
    found = [at for at in map(text.find, stops) if at >= 0]
    data = text.encode()
    for step in (1, 2, 3, 5):
        stream = TextStream(stops)
        shown = "".join(fed(stream, data, step))
        assert stream.stopped == bool(found)
        # A stop that becomes complete first wins, even when a longer one began before it.
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if not found:
            assert shown == text


@given(ALPHABET, st.text(alphabet="ab🙂é", min_size=1, max_size=4))
def test_one_stop_string_cuts_exactly_where_it_begins(text: str, stop: str) -> None:
    cut = text.find(stop)
    for step in (1, 2, 3, 5):
        shown = "".join(fed(TextStream([stop]), text.encode(), step))
        assert shown == (text if cut < 0 else text[:cut])
