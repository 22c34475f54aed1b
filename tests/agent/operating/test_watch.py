"""Whose limits let a job rest, and from when on."""

import logging

import pytest

from agent.operating.limits import OperatingLimits
from agent.operating.watch import Watch
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import JobSpec
from tests.agent.operating.test_resting import at, sample

FREE = JobSpec(name="free")
NIGHTS = JobSpec(name="nights", limits=job_pb2.OperatingLimits(hours=["22:00-06:00"], rest_s=30))
HOT = OperatingLimits(pause_above_c=90, resume_below_c=80)


def test_both_the_device_and_the_job_have_limits() -> None:
    watch = Watch(HOT, local_minute=lambda: 720)
    watch.add(sample(0, heat=at(91)))
    assert watch.rest(FREE).startswith("The board is at 91.0 °C, more than 90 °C: by the agent's")
    both = watch.rest(NIGHTS)
    assert "by the agent's limits" in both
    assert "It is 12:00, outside of 22:00-06:00: by the job's limits" in both
    watch.add(sample(1, heat=at(70)))
    watch.add(sample(31, heat=at(70)))
    assert watch.rest(FREE) == ""
    assert watch.rest(NIGHTS).startswith("It is 12:00")


def test_a_job_of_the_night_goes_on_after_its_rest() -> None:
    minute = 21 * 60 + 59
    watch = Watch(OperatingLimits(), local_minute=lambda: minute)
    watch.add(sample(0))
    assert watch.rest(NIGHTS)
    minute = 22 * 60
    watch.add(sample(1))
    watch.add(sample(30.9))
    assert watch.rest(NIGHTS)
    watch.add(sample(31))
    assert watch.rest(NIGHTS) == ""


def test_nothing_begins_under_limits_before_the_board_was_seen() -> None:
    assert Watch(HOT).rest(FREE).startswith("The board has not been looked at yet")
    assert Watch(OperatingLimits()).rest(NIGHTS).startswith("The board has not been looked at yet")
    assert Watch(OperatingLimits()).rest(FREE) == ""


def test_what_has_no_effect_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(OperatingLimits(mains_only=True), local_minute=lambda: None)
    assert watch.without_effect(NIGHTS) == []
    with caplog.at_level(logging.WARNING):
        watch.add(sample(0))
        watch.add(sample(1))
    assert caplog.messages == [
        "agent.toml: limits.mains_only has no effect: this board does not tell its supply."
    ]
    assert watch.without_effect(NIGHTS) == [
        "limits.hours has no effect: the device's clock is not set."
    ]
