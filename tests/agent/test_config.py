"""Limits and power of agent.toml: what is written is checked, and named with its key."""

import pytest

from agent import config
from agent.operating.limits import OperatingLimits
from protos.errors import InvalidRequest


def test_limits_are_filled() -> None:
    written = {"limits": {"pause_above_c": 85, "hours": ["22:00-06:00"], "mains_only": True}}
    assert config.parsed(written, "agent.toml").limits == OperatingLimits(
        pause_above_c=85.0, resume_below_c=75.0, hours=("22:00-06:00",), mains_only=True
    )


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"limits": {"hours": "22:00-06:00"}}, 'limits.hours must be a list of texts, as ["22:00'),
        ({"limits": {"hours": ["22-06"]}}, "limits.hours has '22-06'; write a span as"),
        ({"limits": {"pause_above_c": 80, "resume_below_c": 80}}, "resume_below_c is 80; it must"),
        ({"limits": {"rest_s": 0}}, "limits.rest_s is 0; it lies between 1 and 86400"),
        ({"limits": {"pause_above": 80}}, "unknown key limits.pause_above"),
        ({"journal": {"most_mib": 16}}, "journal.most_mib must not be less than journal.keep_mib"),
        ({"power": {"clocks": "on"}}, 'power.clocks must be "max" or empty'),
        ({"power": {"mode": 2}}, "power.mode must be of type str"),
    ],
)
def test_what_is_wrong_is_named(tables: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        config.parsed(tables, "agent.toml")
    assert caught.value.what.startswith("agent.toml: ")
    assert said in caught.value.what
