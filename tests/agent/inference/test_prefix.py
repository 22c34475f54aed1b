import pytest

from agent.inference.prefix import Plan, PrefixCache, usable

PROMPT = [1, 2, 3, 4, 5, 6]


def cache(*held: tuple[object, list[int]], cells: int = 100, sequences: int = 2) -> PrefixCache:
    """One that holds these prefixes in the sequences 0, 1, …"""
    made = PrefixCache(cells, sequences)
    plans = [made.claim(key, [0], 0) for key, _ in held]
    for plan, (key, tokens) in zip(plans, held, strict=True):
        assert plan
        made.record(plan.sequence, key, tokens)
    return made


def test_an_empty_cache_starts_from_nothing() -> None:
    assert cache().claim("a", PROMPT, 10) == Plan(0, 0, ())


def test_the_common_beginning_is_kept() -> None:
    assert cache(("a", [1, 2, 3, 9, 9])).claim("a", PROMPT, 10) == Plan(0, 3, ())


def test_the_last_token_is_always_computed() -> None:
    assert cache(("a", [*PROMPT, 7, 8])).claim("a", PROMPT, 10) == Plan(0, len(PROMPT) - 1, ())


@pytest.mark.parametrize("other", [None, ("sha256:b", 1.0), ("sha256:a", 0.5)])
def test_nothing_is_shared_between_adapters(other: object) -> None:
    assert cache((("sha256:a", 1.0), PROMPT)).claim(other, PROMPT, 10) == Plan(1, 0, ())


def test_the_longest_of_several_is_taken() -> None:
    plan = cache(("a", [1, 2]), ("a", [1, 2, 3, 4])).claim("a", PROMPT, 10)
    assert plan == Plan(1, 4, ())


def test_the_least_recently_used_sequence_is_replaced() -> None:
    held = cache(("a", [1, 2, 3]), ("b", [1, 2, 3]))
    again = held.claim("a", PROMPT, 10)
    assert again
    held.record(again.sequence, "a", [1, 2, 3, 4])
    assert held.claim("c", PROMPT, 10) == Plan(1, 0, ())


@pytest.mark.parametrize(
    ("key", "prompt", "reserve", "plan"),
    [
        ("c", PROMPT, 6, Plan(2, 0, (0,))),
        ("c", PROMPT, 14, Plan(2, 0, (0, 1))),
        ("a", [1] * 9, 3, Plan(0, 8, ())),
    ],
)
def test_others_make_room_when_the_cells_do_not_suffice(
    key: str, prompt: list[int], reserve: int, plan: Plan
) -> None:
    held = cache(("a", [1] * 8), ("b", [1] * 8), cells=20, sequences=3)
    assert held.claim(key, prompt, reserve) == plan


def test_a_sequence_that_holds_nothing_is_free_again() -> None:
    held = cache(("a", PROMPT), sequences=1)
    assert held.claim("a", PROMPT, 10) == Plan(0, 5, ())
    held.record(0, "a", [])
    assert held.claim("a", PROMPT, 10) == Plan(0, 0, ())


def test_what_runs_is_neither_shared_nor_evicted() -> None:
    held = cache(("a", PROMPT), cells=40, sequences=3)
    assert held.claim("a", PROMPT, 10) == Plan(0, 5, ())
    # The same beginning, but another request is writing behind it.
    assert held.claim("a", PROMPT, 10) == Plan(1, 0, ())
    assert held.claim("a", PROMPT, 10) is None, "16 + 16 + 16 cells of 40"
    assert held.claim("a", PROMPT, 2) == Plan(2, 0, ())
    assert held.claim("a", PROMPT, 0) is None, "no sequence"
    held.record(0, "a", [*PROMPT, 7])
    assert held.claim("a", PROMPT, 0) == Plan(0, 5, ())


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
