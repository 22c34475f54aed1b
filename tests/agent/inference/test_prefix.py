import pytest

from agent.inference.prefix import Plan, PrefixCache, usable

PROMPT = [1, 2, 3, 4, 5, 6]


def cache(cells: int = 100, sequences: int = 2) -> PrefixCache:
    return PrefixCache(cells, sequences)


def test_an_empty_cache_starts_from_nothing() -> None:
    assert cache().plan("a", PROMPT, 10) == Plan(0, 0, ())


def test_the_common_beginning_is_kept() -> None:
    held = cache()
    held.record(0, "a", [1, 2, 3, 9, 9])
    assert held.plan("a", PROMPT, 10) == Plan(0, 3, ())


def test_the_last_token_is_always_computed() -> None:
    held = cache()
    held.record(0, "a", [*PROMPT, 7, 8])
    assert held.plan("a", PROMPT, 10) == Plan(0, len(PROMPT) - 1, ())


def test_nothing_is_shared_between_adapters() -> None:
    held = cache()
    held.record(0, ("sha256:a", 1.0), PROMPT)
    for other in (None, ("sha256:b", 1.0), ("sha256:a", 0.5)):
        assert held.plan(other, PROMPT, 10) == Plan(1, 0, ())


def test_the_longest_of_several_is_taken() -> None:
    held = cache()
    held.record(0, "a", [1, 2])
    held.record(1, "a", [1, 2, 3, 4])
    assert held.plan("a", PROMPT, 10).sequence == 1


def test_the_least_recently_used_sequence_is_replaced() -> None:
    held = cache()
    held.record(0, "a", [1, 2, 3])
    held.record(1, "b", [1, 2, 3])
    held.record(0, "a", [1, 2, 3, 4])
    assert held.plan("c", PROMPT, 10) == Plan(1, 0, ())


def test_others_make_room_when_the_cells_do_not_suffice() -> None:
    held = cache(cells=20, sequences=3)
    held.record(0, "a", [1] * 8)
    held.record(1, "b", [1] * 8)
    assert held.plan("c", PROMPT, 6) == Plan(2, 0, (0,))
    assert held.plan("c", PROMPT, 14) == Plan(2, 0, (0, 1))
    assert held.plan("a", [1] * 9, 3).evict == ()


def test_a_forgotten_sequence_is_free_again() -> None:
    held = cache(sequences=1)
    held.record(0, "a", PROMPT)
    held.forget(0)
    held.forget(0)
    assert held.plan("a", PROMPT, 10) == Plan(0, 0, ())


@pytest.mark.parametrize(
    ("keep", "first_held", "window", "expected"),
    [
        (60, 0, 0, True),
        (60, 0, 32, True),
        (60, 28, 32, True),
        (60, 29, 32, False),
        (60, 344, 32, False),
        (10, 0, 32, True),
        (10, 1, 32, False),
        (60, -1, 32, False),
    ],
)
def test_a_window_that_moved_on_is_not_usable(
    keep: int, first_held: int, window: int, expected: bool
) -> None:
    assert usable(keep, first_held, window) is expected
