"""Jobs from file to adapter, on a real agent that trains; pauses, power cuts and mistakes."""

from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from artifacts import adapter
from controller import Fleet, load_job_file
from controller.demo.processes import free_port
from protos.errors import (
    InvalidRequest,
    NotFound,
    OutOfMemory,
    Refused,
    TimedOut,
    Unreachable,
)
from protos.nanofleet.v1 import inference_pb2, job_pb2
from tests.controller.agents import Agent
from tests.controller.recipes import job


async def test_a_job_from_file_to_adapter(fleet: Fleet, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "finetune.yaml").write_text(
        "name: persona\nselector: site=lab\n"
        "train: {base: tiny, dataset: persona.jsonl, epochs: 1, accumulation: 2,"
        " sequence_length: 64, learning_rate: 1e-3}\n"
    )
    record = await fleet.submit(load_job_file(tmp_path / "finetune.yaml"))
    assert record.device == "kitchen"
    assert record.job.spec.train.stages[0].steps == 3
    with pytest.raises(Refused, match="not ended"):
        await fleet.fetch_result(record.id)
    events = [event async for event in fleet.watch(record.id)]
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert events[-1].transition.to == job_pb2.JOB_STATE_SUCCEEDED
    assert fleet.events("persona") == events
    assert [event async for event in fleet.watch("persona")] == events
    ended = await fleet.wait("persona", 60)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ended.job.result.steps == 3
    assert ended.job.attempts[0].peak_rss_bytes > 0
    assert fleet.jobs(device="kitchen", states=[job_pb2.JOB_STATE_SUCCEEDED])[0] == ended

    entry = await fleet.fetch_result("persona")
    assert entry.name == "persona"
    assert entry.digest == ended.job.result.adapter_digest
    assert entry.details["base_digest"] == fleet.resolve("tiny").digest
    assert await fleet.fetch_result("persona") == entry
    target = tmp_path / "adapter.tar"
    await fleet.pull("kitchen", entry.digest, target)
    training = adapter.read_manifest(target).training
    assert training is not None
    assert training.job_id == record.id

    said = [
        response
        async for response in fleet.generate(
            "kitchen", base="tiny", adapter="persona", messages=[("user", "Hi")], max_tokens=4
        )
    ]
    assert said[-1].finish_reason != inference_pb2.FINISH_REASON_UNSPECIFIED
    assert said[-1].usage.completion_tokens <= 4
    await fleet.unload_model("kitchen")


async def test_a_long_job_is_paused_resumed_and_canceled(fleet: Fleet, dataset: Path) -> None:
    record = await fleet.submit(job("long", dataset, steps=100_000))
    with pytest.raises(TimedOut) as caught:
        await fleet.wait(record.id, 0.05)
    assert caught.value.reason == "WAIT_TIMED_OUT"
    watching = fleet.watch(record.id)
    orders = (
        (fleet.pause, job_pb2.JOB_STATE_PAUSED),
        (fleet.resume, job_pb2.JOB_STATE_RUNNING),
        (fleet.cancel, job_pb2.JOB_STATE_CANCELED),
    )
    async for event in watching:
        if event.HasField("progress"):
            break
    for order, state in orders:
        await order("long")
        async for event in watching:
            if event.transition.to == state:
                break
    ended = await fleet.wait("long", 60)
    assert ended.state == job_pb2.JOB_STATE_CANCELED
    await fleet.cancel("long")  # idempotent
    with pytest.raises(Refused, match="was canceled"):
        await fleet.fetch_result("long")


async def test_a_power_cut_and_a_restarted_agent_lose_nothing(
    empty_fleet: Fleet, dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    fleet = empty_fleet
    agent = Agent("kitchen", tmp_path / "kitchen", free_port())
    await agent.join(fleet)
    agent.start()
    await fleet.import_model(tiny_base, name="tiny")
    # Far more steps than are done: the job ends when the test ends it.
    record = await fleet.submit(job("cut", dataset, steps=100_000, checkpoint_minutes=0.005))
    cuts: list[str] = []
    events = []
    saved_step = first_step = 0
    async for event in fleet.watch(
        record.id, on_interruption=lambda error: cuts.append(str(error))
    ):
        events.append(event)
        if event.HasField("checkpoint") and not cuts:
            saved_step = event.checkpoint.step
            agent.kill()
            assert not (await fleet.status("kitchen")).reachable
            assert "kitchen" in await fleet.refresh()
            assert fleet.job("cut").state == job_pb2.JOB_STATE_RUNNING
            agent.start()
        if event.attempt == 2 and event.HasField("progress") and not first_step:
            first_step = event.progress.step
            await fleet.cancel("cut")
    assert cuts
    assert first_step > saved_step > 0
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert fleet.events("cut") == events
    assert [attempt.cause for attempt in fleet.job("cut").job.attempts] == [
        job_pb2.CAUSE_WORKER_CRASH,
        job_pb2.CAUSE_CANCELED,
    ]
    agent.stop()


async def test_mistakes_cost_no_job(fleet: Fleet, dataset: Path) -> None:
    before = fleet.jobs()
    with pytest.raises(NotFound, match="Did you mean tiny"):
        await fleet.submit(job("x", dataset, base="tinny"))
    with pytest.raises(NotFound, match=r"nowhere\.jsonl"):
        await fleet.submit(job("x", dataset.with_name("nowhere.jsonl")))
    with pytest.raises(NotFound, match="no dataset"):
        await fleet.submit(job("x", Path("nonesuch")))
    for_another = job("x", dataset).model_copy(update={"device": "kichen"})
    with pytest.raises(NotFound, match="Did you mean kitchen"):
        await fleet.submit(for_another)
    assert fleet.jobs() == before


async def test_a_device_that_is_away_gets_no_job(
    empty_fleet: Fleet, dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    await Agent("kitchen", tmp_path / "kitchen", free_port()).join(empty_fleet)
    await empty_fleet.import_model(tiny_base, name="tiny")
    with pytest.raises(Unreachable, match="Cannot reach device kitchen"):
        await empty_fleet.submit(job("x", dataset))
    assert empty_fleet.jobs() == []


async def test_what_the_device_refuses_is_kept_with_its_words(
    empty_fleet: Fleet, dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """A board with 32 MiB for workers."""
    reserve_mib = psutil.virtual_memory().total // (1 << 20) - 32
    small = f"[memory]\nreserve_mib = {reserve_mib}\n"
    agent = Agent("kitchen", tmp_path / "kitchen", free_port(), small)
    await agent.join(empty_fleet)
    agent.start()
    await empty_fleet.import_model(tiny_base, name="tiny")
    with pytest.raises(OutOfMemory):
        await empty_fleet.submit(job("huge", dataset))
    agent.stop()
    record = empty_fleet.job("huge")
    assert record.state == job_pb2.JOB_STATE_FAILED
    assert "kitchen refused it" in record.job.message


async def test_jobs_by_id_by_its_beginning_and_by_name(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="nanofleet job list"):
        fleet.job("nonesuch")
    with pytest.raises(NotFound):
        fleet.job("")


async def test_a_qint8_base_trains_and_is_not_served(
    empty_fleet: Fleet, dataset: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optimum.quanto")
    agent = Agent("kitchen", tmp_path / "kitchen", free_port())
    await agent.join(empty_fleet)
    agent.start()
    entry = await empty_fleet.import_model(tiny_folder, name="tiny", file_type="qint8")
    assert entry.details["file_type"] == "QINT8"

    async def spoken() -> list[str]:
        steps = [step.found async for step in empty_fleet.plan(job("small", dataset))]
        return [check.found for check in steps if getattr(check, "name", "") == "generation"]

    assert [found[:9] for found in await spoken()] == ["not tried"]
    record = await empty_fleet.submit(job("small", dataset))
    assert (await empty_fleet.wait(record.id, 60)).state == job_pb2.JOB_STATE_SUCCEEDED
    with pytest.raises(InvalidRequest, match="cannot be served") as caught:
        await empty_fleet.load_model("kitchen", "tiny")
    assert "llama.cpp has no such type" in caught.value.why
    assert "q8_0" in caught.value.fix
    # What was made of the same folder can speak with the trial adapter.
    await empty_fleet.import_model(tiny_folder, name="sibling")
    await empty_fleet.push("sibling", ["kitchen"])
    (found,) = await spoken()
    assert found.startswith(
        "llama.cpp speaks with the trial adapter on the Q8_0 of the same weights"
    )
    agent.stop()


async def test_a_rehearsal_that_is_cut_off_leaves_nothing_behind(
    empty_fleet: Fleet, dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    agent = Agent("kitchen", tmp_path / "kitchen", free_port())
    scratch = tmp_path / "kitchen" / "rehearsal"
    await agent.join(empty_fleet)
    agent.start()
    await empty_fleet.import_model(tiny_base, name="tiny")

    async def cut_off() -> None:
        async for _ in empty_fleet.plan(job("cut", dataset)):
            if scratch.exists():
                agent.kill()

    with pytest.raises(Unreachable):
        await cut_off()
    assert scratch.exists()
    agent.start()
    assert not scratch.exists()
    # A reader that goes away ends the rehearsal, and the next one may begin.
    async with aclosing(empty_fleet.plan(job("left", dataset))) as steps:
        async for step in steps:
            assert step.device == "kitchen"
            break
    record = await empty_fleet.submit(job("next", dataset))
    assert (await empty_fleet.wait(record.id, 60)).state == job_pb2.JOB_STATE_SUCCEEDED
    assert not scratch.exists()
    agent.stop()
