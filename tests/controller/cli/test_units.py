import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cli import units


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (468_000_000, "468 MB"),
        (1_036_000_000, "1.04 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(size_bytes: float | None, text: str) -> None:
    assert units.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0384, "38 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (133, "2 min 13 s"),
        (3600, "1 h"),
        (11_100, "3 h 5 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (7, "0:07"), (133, "2:13"), (11_109, "3:05:09")]
)
def test_clocks(seconds: float | None, text: str) -> None:
    assert units.clock(seconds) == text


def test_age_does_not_trust_the_other_clock() -> None:
    now_ns = 1_700_000_000_000_000_000
    assert units.age(0, now_ns) == "never"
    assert units.age(now_ns + 10**12, now_ns) == "just now"
    assert units.age(now_ns - 90 * 10**9, now_ns) == "1 min ago"
    assert units.age(now_ns - 50 * 3600 * 10**9, now_ns) == "2 d ago"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5d", 129_600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert units.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5s", "1e3", "5 m", "nan", "inf", "1.2.3s", "٣", "²s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        units.seconds_of(text)


@given(st.floats(min_value=0, max_value=1e15))
def test_a_size_is_never_wider_than_a_column(size_bytes: float) -> None:
    assert len(units.size(size_bytes)) <= 8


def test_absent_is_never_zero() -> None:
    for of in (units.watts, units.celsius, units.rate, units.energy, units.duration, units.size):
        assert of(None) == "–"
        assert of(0) != "–"
