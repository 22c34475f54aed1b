"""Jobs on a real agent process, with the real training worker, over mutual TLS."""

import asyncio
import json
import os
import select
import signal
import time
from pathlib import Path

import grpc
import psutil
import pytest

from artifacts import adapter, dataset, digest
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2, device_pb2, job_pb2
from protos.nanofleet.v1.inference_pb2 import (
    GenerateRequest,
    ListAdaptersRequest,
    UnloadModelRequest,
)
from protos.nanofleet.v1.job_pb2 import JobEvent, JobSpec, WatchJobRequest
from tests.agent.daemon import Stubs
from tests.agent.jobs.samples import FIRST, SECOND, spec_bytes, train_spec
from tests.agent.kitchen import BASE, ENDLESS, Kitchen, ended, events, submit, until


async def refusal(
    stubs: Stubs, spec: bytes, job_id: str = FIRST, generation: int = 1
) -> errors.NanofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(stubs, spec, job_id, generation)
    return status.from_rpc_error(caught.value, "the device")


def told(history: list[JobEvent]) -> list[str]:
    """The history in words: states for transitions, and what else happened, without repeats."""
    words: list[str] = []
    for event in history:
        word = event.WhichOneof("body") or ""
        if word == "transition":
            word = job_pb2.JobState.Name(event.transition.to).removeprefix("JOB_STATE_")
        if not words or words[-1] != word:
            words.append(word)
    return words


async def test_a_job_from_its_submission_to_its_adapter(kitchen: Kitchen, tmp_path: Path) -> None:
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        job = await submit(stubs, kitchen.spec())
        assert job.state in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)
        assert job.submitted_by == "controller/controller"
        history = [event async for event in events(stubs)]
        job = await ended(stubs)

        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
        assert told(history) == [
            "QUEUED", "RUNNING", "log", "check", "log", "progress", "checkpoint", "SUCCEEDED",
        ]  # fmt: skip
        assert [event.seq for event in history] == list(range(1, len(history) + 1))
        assert history[-1].transition.result == job.result
        assert job.progress.step == job.progress.total_steps == 4
        # Too short for more: it is its own rehearsal.
        assert [check.name for check in job.rehearsal.checks] == ["data", "memory"]
        assert job.result.steps == 4
        assert job.result.final_loss > 0
        assert job.result.peak_rss_bytes > 50 << 20
        assert job.attempts[0].peak_rss_bytes > 50 << 20

        data = await stubs.get(job.result.adapter_digest)
        assert digest.of_bytes(data) == job.result.adapter_digest
        (tmp_path / "adapter.tar").write_bytes(data)
        manifest = adapter.read_manifest(tmp_path / "adapter.tar")
        assert manifest.name == "persona"
        assert manifest.training is not None
        assert manifest.training.job_id == FIRST

        await check_served(stubs, job.result.adapter_digest, digest.of_file(kitchen.base))
        listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest())
        assert {artifact.digest: list(artifact.pins) for artifact in listed.artifacts} == {
            digest.of_file(kitchen.base): [],
            digest.of_file(kitchen.data): [],
            job.result.adapter_digest: [],
        }
        middle = history[3].seq
        journal_id = (await anext(aiter(stubs.jobs.WatchJob(WatchJobRequest())))).journal_id
        rest = [event async for event in events(stubs, FIRST, middle, journal_id)]
        assert rest == history[4:]
        stale = [event async for event in events(stubs, FIRST, middle, "another journal")]
        assert stale == history
    kitchen.daemon.stop()
    left = {path.name for path in (kitchen.daemon.state / "jobs" / FIRST).iterdir()}
    assert left == {"worker.log"}


async def check_served(stubs: Stubs, adapter_digest: str, base: str) -> None:
    """What was trained here is served here; on a base model that is not here it is not."""
    request = GenerateRequest(
        base_digest=base, adapter_digest=adapter_digest, prompt="What is 1 and 2?", max_tokens=4
    )
    answers = [response async for response in stubs.inference.Generate(request)]
    assert answers[-1].usage.completion_tokens > 0
    (summary,) = (await stubs.inference.ListAdapters(ListAdaptersRequest())).adapters
    assert (summary.digest, summary.name, summary.rank) == (adapter_digest, "persona", 4)
    assert summary.loaded
    request.base_digest = digest.of_bytes(b"another base")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [response async for response in stubs.inference.Generate(request)]
    missing = status.from_rpc_error(caught.value, "")
    assert isinstance(missing, errors.NotFound)
    assert missing.field == "base_digest"
    await stubs.inference.UnloadModel(UnloadModelRequest())


async def test_the_agent_is_killed_and_then_stopped_in_the_middle_of_a_job(
    kitchen: Kitchen,
) -> None:
    """kill -9: the next agent goes on from the checkpoint. SIGTERM: one is written first."""
    spec = kitchen.spec(steps=ENDLESS, accumulation=2, checkpoint_period_s=1)
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, spec)
        saved = await until(stubs, lambda event: event.HasField("checkpoint"))
    kitchen.daemon.kill()
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as stubs:
        assert (await submit(stubs, spec)).id == FIRST
        await until(stubs, lambda event: event.attempt == 2 and event.HasField("progress"))
    kitchen.daemon.stop()
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as stubs:
        await until(stubs, lambda event: event.attempt == 3 and event.HasField("progress"))
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))
        job = await ended(stubs)
        history = [event async for event in events(stubs)]

    assert [(attempt.cause, attempt.state) for attempt in job.attempts] == [
        (job_pb2.CAUSE_WORKER_CRASH, job_pb2.JOB_STATE_FAILED),
        (job_pb2.CAUSE_UNSPECIFIED, job_pb2.JOB_STATE_QUEUED),
        (job_pb2.CAUSE_CANCELED, job_pb2.JOB_STATE_CANCELED),
    ]
    begins = [resumed_at(event) for event in history if "resuming after" in event.log.text]
    assert begins[0] >= saved.checkpoint.step
    assert job.attempts[1].message == f"Stopped after step {begins[1]}."
    steps = [event.progress.step for event in history if event.attempt > 1 and event.progress.step]
    assert steps == list(range(begins[0] + 1, steps[-1] + 1)), (
        "nothing is done twice after an orderly stop"
    )
    seqs = [event.seq for event in history]
    assert seqs == list(range(1, len(seqs) + 1))


def resumed_at(event: JobEvent) -> int:
    return int(event.log.text.split("after step ")[1].split(":")[0])


async def test_pause_resume_and_cancel(kitchen: Kitchen) -> None:
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS))
        await submit(stubs, kitchen.spec(steps=2), SECOND)
        await until(stubs, lambda event: event.progress.step >= 2)

        await stubs.jobs.PauseJob(job_pb2.PauseJobRequest(job_id=FIRST))
        assert (await ended(stubs, SECOND)).state == job_pb2.JOB_STATE_SUCCEEDED
        paused = (await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=FIRST))).job
        assert paused.state == job_pb2.JOB_STATE_PAUSED
        assert paused.attempts[0].cause == job_pb2.CAUSE_UNSPECIFIED
        assert paused.message == f"Stopped after step {paused.progress.step}."

        await stubs.jobs.ResumeJob(job_pb2.ResumeJobRequest(job_id=FIRST))
        await until(stubs, lambda event: event.attempt == 2 and event.HasField("progress"))
        listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest(kind=BASE))
        assert list(listed.artifacts[0].pins) == [f"job {FIRST}"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.artifacts.DeleteArtifact(
                artifact_pb2.DeleteArtifactRequest(digest=digest.of_file(kitchen.base))
            )
        in_use = status.from_rpc_error(caught.value, "")
        assert isinstance(in_use, errors.InUse)
        assert f"job {FIRST}" in str(in_use)

        for _ in range(2):
            job = (await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))).job
            assert job.state == job_pb2.JOB_STATE_CANCELED
            assert job.attempts[-1].cause == job_pb2.CAUSE_CANCELED
            assert job.message == "The job was cancelled."
        history = [event async for event in events(stubs)]
        assert history[-1].transition.cause == job_pb2.CAUSE_CANCELED
        listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest(kind=BASE))
        assert not listed.artifacts[0].pins


async def test_a_job_that_is_cancelled_while_it_is_being_paused(kitchen: Kitchen) -> None:
    """The worker may still report that it stopped; what counts is what was asked last."""
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS))
        await until(stubs, lambda event: event.progress.step >= 1)
        await stubs.jobs.PauseJob(job_pb2.PauseJobRequest(job_id=FIRST))
        job = (await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))).job
    assert job.state == job_pb2.JOB_STATE_CANCELED
    assert job.attempts[0].cause == job_pb2.CAUSE_CANCELED
    assert job.message == "The job was cancelled."


async def test_a_job_with_a_lease_stops_when_nobody_grants_it_any_more(kitchen: Kitchen) -> None:
    """The worker sees to that itself: its agent is frozen meanwhile."""
    # Few reports, so that they do not fill the pipe that nobody reads.
    train = JobSpec.FromString(kitchen.spec(steps=ENDLESS, accumulation=64)).train
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        spec = JobSpec(name="moving", train=train, lease_s=6).SerializeToString()
        assert (await submit(stubs, spec)).state == job_pb2.JOB_STATE_QUEUED
        lease_end_ns = await grant(stubs)
        await until(stubs, lambda event: event.progress.step >= 1)
    os.kill(kitchen.daemon.pid, signal.SIGSTOP)
    (worker,) = psutil.Process(kitchen.daemon.pid).children()
    wait_for_death(worker.pid)
    assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= lease_end_ns
    os.kill(kitchen.daemon.pid, signal.SIGCONT)
    async with kitchen.daemon.stubs() as stubs:
        stopped = await until(stubs, lambda event: event.transition.message.startswith("Stopped"))
        assert stopped.transition.to == job_pb2.JOB_STATE_QUEUED
        assert "no controller was heard in time" in stopped.transition.message
        assert await grant(stubs) > lease_end_ns
        await until(stubs, lambda event: event.attempt == 2 and event.HasField("progress"))
        await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST, generation=1))
        assert (await ended(stubs)).state == job_pb2.JOB_STATE_CANCELED


def wait_for_death(pid: int) -> None:
    """Of somebody else's child, which nobody reaps."""
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(60_000)
    os.close(descriptor)


async def grant(stubs: Stubs) -> int:
    """As a controller does it; returns when the first job's lease ends."""
    device = (await stubs.device.GetDevice(device_pb2.GetDeviceRequest())).device
    request = job_pb2.RenewLeasesRequest(
        boot_id=device.boot_id,
        boottime_ns=device.boottime_ns,
        grants=[job_pb2.LeaseGrant(job_id=FIRST, generation=1)],
    )
    (lease,) = (await stubs.jobs.RenewLeases(request)).leases
    return lease.until_boottime_ns


async def test_a_submission_is_idempotent_and_conflicts_are_named(kitchen: Kitchen) -> None:
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        spec = kitchen.spec(steps=ENDLESS)
        await asyncio.gather(*(submit(stubs, spec) for _ in range(5)))
        jobs = (await stubs.jobs.ListJobs(job_pb2.ListJobsRequest())).jobs
        assert [job.id for job in jobs] == [FIRST]

        conflict = await refusal(stubs, kitchen.spec(steps=7))
        assert isinstance(conflict, errors.AlreadyExists)
        assert (await submit(stubs, spec, generation=4)).generation == 4
        assert isinstance(await refusal(stubs, spec, generation=3), errors.StaleGeneration)


async def test_what_cannot_run_is_refused_before_it_is_a_job(kitchen: Kitchen) -> None:
    async with kitchen.daemon.stubs() as stubs:
        missing = await refusal(stubs, kitchen.spec())
        assert isinstance(missing, errors.NotFound)
        assert missing.field == "train.base_digest"
        assert "Push it" in missing.fix
        await kitchen.stock(stubs)

        for bad, field in (
            (kitchen.spec(sequence_length=1), "train.sequence_length"),
            (kitchen.spec(learning_rate=float("nan")), "train.stages[0].learning_rate"),
            (kitchen.spec(base_digest="../../etc/passwd"), "train.base_digest"),
            (b"\xff\xff", "spec"),
            (b"", "work"),
        ):
            error = await refusal(stubs, bad)
            assert isinstance(error, errors.InvalidRequest), bad
            assert error.field == field
        swapped = spec_bytes(train_spec(base_digest=digest.of_file(kitchen.data),
                                        dataset_digest=digest.of_file(kitchen.base)))  # fmt: skip
        assert "not a base model" in str(await refusal(stubs, swapped))
        assert (await refusal(stubs, kitchen.spec(), job_id="../x")).field == "job_id"
        assert not (await stubs.jobs.ListJobs(job_pb2.ListJobsRequest())).jobs


async def test_a_job_that_is_too_large_for_the_board_is_refused(kitchen: Kitchen) -> None:
    kitchen.daemon.stop()
    kitchen.daemon.write_config("[memory]\nmost_mib = 400\n")
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        huge = await refusal(stubs, kitchen.spec(sequence_length=100_000))
        assert isinstance(huge, errors.OutOfMemory)
        assert "This fits: sequence_length" in huge.fix
        assert not (await stubs.jobs.ListJobs(job_pb2.ListJobsRequest())).jobs


async def test_a_job_that_cannot_be_trained_says_why(kitchen: Kitchen, tmp_path: Path) -> None:
    """The worker judges what only it can see; its sentence reaches the caller."""
    plain, packed = tmp_path / "long.jsonl", tmp_path / "long.zst"
    plain.write_text(json.dumps({"text": "word " * 500}) + "\n")
    dataset.compress(plain, packed)
    kitchen.data = packed
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(dataset_name="long.jsonl"))
        job = await ended(stubs)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.attempts[0].cause == job_pb2.CAUSE_BAD_DATA
    assert "long.jsonl:1: the sample has" in job.message
    assert len(job.attempts) == 1


async def test_a_training_that_diverges_ends_with_its_words(kitchen: Kitchen) -> None:
    """Once: the same recipe would diverge again."""
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(learning_rate=1.0, weight_decay=9.0, steps=300))
        job = await ended(stubs)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert [attempt.cause for attempt in job.attempts] == [job_pb2.CAUSE_BAD_SPEC]
    assert "the training diverged. Lower the learning rate (1)" in job.message
