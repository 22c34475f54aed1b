"""A long job on a real agent rehearses itself with its first steps, once, whatever cuts it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from agent.training.preflight import STEPS
from artifacts import dataset, digest
from artifacts.convert import FileType, convert_model
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import JobEvent
from tests.agent.daemon import Daemon, Stubs
from tests.agent.jobs.samples import FIRST
from tests.agent.kitchen import ENDLESS, Kitchen, ended, events, submit, until

CHECKS = ["data", "memory", "training", "checkpoint", "adapter", "generation"]


def checked(name: str, attempt: int = 1) -> Callable[[JobEvent], bool]:
    return lambda event: event.attempt == attempt and event.check.name == name


async def canceled(stubs: Stubs) -> job_pb2.Job:
    return (await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=FIRST))).job


async def test_a_long_job_is_rehearsed_by_its_first_steps(kitchen: Kitchen) -> None:
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS, checkpoint_period_s=3600))
        await until(stubs, lambda event: event.progress.step > STEPS)
        job = await canceled(stubs)
        history = [event async for event in events(stubs)]
    bodies = [event.WhichOneof("body") for event in history]
    before = history[: bodies.index("plan")]
    assert [event.check.name for event in before if event.HasField("check")] == CHECKS
    steps = [event.progress.step for event in before if event.HasField("progress")]
    assert steps == list(range(1, STEPS + 1)), "it waits for its adapter to be heard"
    assert [event.checkpoint.step for event in before if event.HasField("checkpoint")] == [STEPS]
    assert [check.name for check in job.rehearsal.checks] == CHECKS
    assert job.rehearsal.checks[-1].found.startswith("llama.cpp speaks with the trial adapter: ")
    plan = job.rehearsal.plan
    assert plan == history[bodies.index("plan")].plan
    assert plan.duration_s > 60
    assert 0 < plan.measured_peak_bytes <= plan.peak_bytes <= plan.usable_bytes
    assert plan.stages[0].steps == ENDLESS


async def test_an_agent_that_dies_while_the_adapter_is_heard_loses_nothing(
    kitchen: Kitchen,
) -> None:
    spec = kitchen.spec(steps=ENDLESS, checkpoint_period_s=3600)
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, spec)
        await until(stubs, checked("adapter"))
    kitchen.daemon.kill()
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as stubs:
        await until(stubs, lambda event: event.HasField("plan"))
    kitchen.daemon.stop()
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as stubs:
        rest = await until(stubs, lambda event: event.attempt == 3 and event.HasField("progress"))
        far = rest.progress.step + 2 * STEPS
        await until(stubs, lambda event: event.progress.step == far)
        job = await canceled(stubs)
        history = [event async for event in events(stubs)]
    second = [event for event in history if event.attempt == 2]
    steps = [event.progress.step for event in second if event.HasField("progress")]
    assert steps[:STEPS] == list(range(STEPS + 1, 2 * STEPS + 1)), "the first ten are not lost"
    # The checks before the first step have passed; the others had to be made again.
    assert [event.check.name for event in second if event.HasField("check")] == CHECKS[2:]
    assert not [
        e for e in history if e.attempt == 3 and (e.HasField("check") or e.HasField("plan"))
    ]
    assert [check.name for check in job.rehearsal.checks] == CHECKS


async def test_pausing_and_cancelling_do_not_wait_for_the_adapter_to_be_heard(
    kitchen: Kitchen,
) -> None:
    async with kitchen.daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS, checkpoint_period_s=3600))
        await until(stubs, checked("adapter"))
        await stubs.jobs.PauseJob(job_pb2.PauseJobRequest(job_id=FIRST))
        paused = await until(stubs, lambda event: event.transition.to == job_pb2.JOB_STATE_PAUSED)
        assert paused.transition.message == f"Stopped after step {STEPS}."
        await stubs.jobs.ResumeJob(job_pb2.ResumeJobRequest(job_id=FIRST))
        await until(stubs, checked("adapter", attempt=2))
        job = await canceled(stubs)
    assert job.state == job_pb2.JOB_STATE_CANCELED
    assert not job.rehearsal.HasField("plan")


async def test_a_job_whose_adapter_cannot_be_heard_fails_with_its_checkpoint_kept(
    daemon: Daemon, tiny_folder: Path, tmp_path: Path
) -> None:
    """A chat template that cannot be rendered is no matter to raw texts, until it is used."""
    folder = tmp_path / "mute"
    shutil.copytree(tiny_folder, folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('this model is mute') }}")
    base, plain, data = tmp_path / "mute.gguf", tmp_path / "texts.jsonl", tmp_path / "texts.zst"
    convert_model(folder, base, FileType("q8_0"))
    plain.write_text('{"text": "The sea is wide and the waves are high today."}\n')
    dataset.compress(plain, data)
    daemon.start()
    kitchen = Kitchen(daemon, base, data)
    async with daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec(steps=ENDLESS))
        job = await ended(stubs)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert [attempt.cause for attempt in job.attempts] == [job_pb2.CAUSE_GATE_FAILED]
    assert "llama.cpp cannot generate with the adapter of the first steps." in job.message
    assert job.message.endswith(f"The checkpoint of step {STEPS} was kept.")
    assert list((daemon.state / "jobs" / FIRST / "checkpoints").iterdir())
    assert digest.of_file(base) == job.spec.train.base_digest
