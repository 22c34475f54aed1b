"""Operating limits on a real agent: a job rests while its board, or its own hours, want it to."""

import time
from pathlib import Path

import pytest

from agent.operating import power_mode
from agent.telemetry.simulation import FOLDER, WARMER
from protos.nanofleet.v1 import device_pb2, job_pb2
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from protos.nanofleet.v1.job_pb2 import JobEvent, JobSpec
from tests.agent.daemon import Daemon, Stubs
from tests.agent.jobs.samples import FIRST, SECOND
from tests.agent.kitchen import ENDLESS, Kitchen, ended, events, submit, until
from tests.agent.operating.programs import Programs

BOARD = ("--board", "orin-nano-4gb")
STEPS = 400


def warm(daemon: Daemon, celsius: int) -> None:
    beside = daemon.state / FOLDER / f".{WARMER}"
    beside.write_text(f"{celsius}\n")
    beside.replace(daemon.state / FOLDER / WARMER)


async def now(stubs: Stubs, job_id: str = FIRST) -> job_pb2.Job:
    return (await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id))).job


async def losses(stubs: Stubs, job_id: str) -> dict[int, float]:
    return {
        event.progress.step: event.progress.loss
        async for event in events(stubs, job_id)
        if event.HasField("progress")
    }


async def test_a_job_rests_while_its_board_is_hot_and_ends_as_if_it_had_not(
    daemon: Daemon, tiny_base: Path, tiny_dataset: Path
) -> None:
    daemon.write_config("[limits]\npause_above_c = 90\nrest_s = 1\n[inference]\nthreads = 1\n")
    daemon.start(*BOARD)
    kitchen = Kitchen(daemon, tiny_base, tiny_dataset)
    async with daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=STEPS))
        await until(stubs, lambda event: event.HasField("progress"))
        warm(daemon, 60)
        suspended = await until(stubs, lambda event: event.HasField("decided"))
        assert suspended.decided.act == "suspend the job"
        assert "more than 90 °C: by the agent's limits it rests" in suspended.decided.reason
        assert (await now(stubs)).held == suspended.decided

        # Serving goes on.
        digest = JobSpec.FromString(kitchen.spec()).train.base_digest
        request = GenerateRequest(base_digest=digest, prompt="Hello", max_tokens=4)
        assert [answer async for answer in stubs.inference.Generate(request)]

        warm(daemon, 0)
        resumed = await until(
            stubs, lambda event: event.decided.act == "resume the job" and event.attempt == 1
        )
        assert resumed.decided.reason.startswith("What it rested for is over.")
        assert not (await now(stubs)).HasField("held")
        job = await ended(stubs)
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.message
        assert len(job.attempts) == 1
        told = [event async for event in events(stubs)]
        between = [event for event in told if suspended.seq < event.seq < resumed.seq]
        still_ns = resumed.at.boottime_ns - 1_000_000_000  # rest_s
        last = [event for event in between if event.at.boottime_ns > still_ns]
        assert not any(event.HasField("progress") for event in last)

        await submit(stubs, kitchen.spec(steps=STEPS), SECOND)
        calm = await ended(stubs, SECOND)
        assert not [e async for e in events(stubs, SECOND) if e.HasField("decided")]
        rested, undisturbed = await losses(stubs, FIRST), await losses(stubs, SECOND)
        both = rested.keys() & undisturbed.keys()
        assert len(both) > 10
        assert {step: rested[step] for step in both} == {step: undisturbed[step] for step in both}
        assert job.result.final_loss == calm.result.final_loss


async def test_a_job_that_waited_for_a_rest_says_when_it_begins(
    daemon: Daemon, tiny_base: Path, tiny_dataset: Path
) -> None:
    daemon.write_config("[limits]\npause_above_c = 90\nrest_s = 1\n")
    daemon.start(*BOARD)
    warm(daemon, 60)
    kitchen = Kitchen(daemon, tiny_base, tiny_dataset)
    async with daemon.stubs() as stubs:
        await hot(stubs)
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=3))
        waiting = await until(stubs, lambda event: event.HasField("decided"))
        assert (waiting.decided.act, waiting.decided.holds) == ("let the job wait", True)
        warm(daemon, 0)
        assert (await ended(stubs)).state == job_pb2.JOB_STATE_SUCCEEDED
        told = [event.decided async for event in events(stubs) if event.HasField("decided")]
        assert [(one.act, one.holds) for one in told[1:]] == [("start the job", False)]
        assert told[1].reason.startswith("What it rested for is over. It needs ")


async def hot(stubs: Stubs) -> None:
    """Returns when a sample has shown it."""
    request = device_pb2.WatchTelemetryRequest(live_only=True)
    async for response in stubs.device.WatchTelemetry(request):
        if any(sample.heat.celsius > 90 for sample in response.samples):
            return


def other_hours() -> str:
    """A span of an hour that begins in some hours, in this machine's own time."""
    hour = (time.localtime().tm_hour + 6) % 24
    return f"{hour:02}:00-{hour:02}:59"


async def test_a_job_with_hours_of_its_own_waits_for_them_and_may_be_canceled(
    kitchen: Kitchen,
) -> None:
    spec = JobSpec.FromString(kitchen.spec(steps=ENDLESS))
    spec.limits.CopyFrom(job_pb2.OperatingLimits(hours=[other_hours()], mains_only=True, rest_s=1))
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, spec.SerializeToString())

        def is_waiting(event: JobEvent) -> bool:
            return event.decided.act == "let the job wait" and "outside" in event.decided.reason

        waiting = await until(stubs, is_waiting)
        assert f"outside of {other_hours()}: by the job's limits" in waiting.decided.reason
        held = (await now(stubs)).held
        assert (held.holds, held.act) == (True, "let the job wait")
        canceled = await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))
        assert canceled.job.state == job_pb2.JOB_STATE_CANCELED
        assert not canceled.job.HasField("held")
        told = [event async for event in events(stubs)]
        assert not any(event.HasField("progress") for event in told)

        # Another one of all hours but these runs.
        spec.limits.hours[:] = ["00:00-24:00"]
        spec.train.stages[0].steps = 3
        await submit(stubs, spec.SerializeToString(), SECOND)
        assert (await ended(stubs, SECOND)).state == job_pb2.JOB_STATE_SUCCEEDED


async def train_without_end(kitchen: Kitchen) -> None:
    """Returns when the job computes."""
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS))
        await until(stubs, lambda event: event.HasField("progress"))


async def test_a_killed_agents_power_mode_is_made_good_by_the_next_one(
    daemon: Daemon, tiny_base: Path, tiny_dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    programs = Programs.written(tmp_path / "bin")
    monkeypatch.setenv("PATH", programs.path)
    daemon.write_config('[power]\nmode = "7W_AI"\n')
    daemon.start(*BOARD)
    await train_without_end(Kitchen(daemon, tiny_base, tiny_dataset))
    assert programs.mode == 1
    daemon.kill()
    assert programs.mode == 1
    daemon.start(*BOARD)
    async with daemon.stubs() as stubs:
        await until(stubs, lambda event: event.HasField("progress") and event.attempt == 2)
        assert programs.calls == ["nvpmodel -m 1", "nvpmodel -m 0", "nvpmodel -m 1"]
        await until(stubs, lambda e: e.log.text.startswith("Power mode 7W_AI (1) for this job"))
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))
    assert programs.mode == 0
    daemon.stop()


async def test_an_agent_that_is_stopped_in_a_job_gives_mode_and_clocks_back(
    daemon: Daemon, tiny_base: Path, tiny_dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    programs = Programs.written(tmp_path / "bin", tree=daemon.state / FOLDER)
    monkeypatch.setenv("PATH", programs.path)
    daemon.write_config('[power]\nmode = "7W_AI"\nclocks = "max"\n')
    daemon.start(*BOARD)
    await train_without_end(Kitchen(daemon, tiny_base, tiny_dataset))
    assert (programs.mode, programs.pinned) == (1, True)
    assert (daemon.state / power_mode.FILE).exists()
    daemon.stop()
    assert (programs.mode, programs.pinned) == (0, False)
    left = (power_mode.FILE, power_mode.CLOCKS_FILE)
    assert not any((daemon.state / name).exists() for name in left)
    stored = daemon.state / power_mode.CLOCKS_FILE
    assert programs.calls == [
        "nvpmodel -m 1",
        f"jetson_clocks --store {stored}",
        "jetson_clocks ",
        f"jetson_clocks --restore {stored}",
        "nvpmodel -m 0",
    ]
