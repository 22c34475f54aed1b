"""docs/durability.md: every state of a job has its row, and its numbers are those of the code."""

import re
from pathlib import Path

from agent import config
from agent.jobs import desk, quota, retention
from agent.jobs.patience import Patience
from agent.rpc import access
from agent.workers import watchdog
from controller import fleet, jobfile
from protos import transport
from protos.nanofleet.v1 import job_pb2

PAGE = (Path(__file__).parent.parent / "docs/durability.md").read_text()


def test_every_state_has_an_owner_and_an_end() -> None:
    rows = re.findall(r"^\| ([A-Z, ]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    named = {state for states, owner, end in rows for state in states.split(", ") if owner and end}
    names = {name.removeprefix("JOB_STATE_") for name in job_pb2.JobState.keys()}  # noqa: SIM118
    assert named == names - {"UNSPECIFIED"} | {"ASSIGNED"}


def test_the_numbers_are_those_of_the_code() -> None:
    for said in (
        f"| {desk._MOST_ACTIVE:,} |",
        f"| {access.MOST_CALLS}, {transport._MAX_CONCURRENT_STREAMS} for each connection |",
        f"| {quota.MOST_EVENTS:,}, progress thinned from step {quota.EVERY_STEP_UP_TO:,} on",
        f"| {retention.LIMITS.keep_bytes >> 20} MiB (`keep_mib`);"
        f" {retention.LIMITS.most_bytes >> 20} MiB (`most_mib`) of what no controller has |",
        f"; {quota.MOST_LINE_CHARACTERS:,} characters |",
        f"| {fleet.LOAD_MODEL_S:.0f} s, and its size at"
        f" {fleet.SLOWEST_DISK_BYTES_PER_S // 10**6} MB/s |",
        f"`lost_after_minutes` ({jobfile.LOST_AFTER_MINUTES:.0f})",
    ):
        assert said in PAGE, said
    assert (watchdog.PATIENCE_S, watchdog.STALL_S, watchdog.STALL_TIMES) == (600, 3600, 10)
    assert config.Journal() == config.Journal(
        retention.LIMITS.keep_bytes >> 20, retention.LIMITS.most_bytes >> 20
    )
    assert Patience() == Patience(silence_s=60, stall_s=900)
