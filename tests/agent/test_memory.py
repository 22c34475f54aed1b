"""Who has the memory, on a real agent whose budget is too small for a job and a model together."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from agent.memory import torch_build
from agent.memory.forecast import inference_forecast, training_forecast
from agent.memory.plan import Plan
from artifacts import base_model, digest
from protos import errors, status
from protos.nanofleet.v1.device_pb2 import GetDeviceRequest
from protos.nanofleet.v1.inference_pb2 import GenerateRequest, GenerateResponse
from protos.nanofleet.v1.job_pb2 import CancelJobRequest, JobEvent
from tests.agent.daemon import Stubs
from tests.agent.jobs.samples import FIRST, train_spec
from tests.agent.kitchen import ENDLESS, Kitchen, events, submit, until

MIB = 1 << 20
CONTEXT = 256


@pytest.fixture
def base(tiny_base: Path) -> Path:
    return tiny_base


def most_mib(base: Path, *, suspended: bool) -> int:
    """A little less than job and model need together; or even a suspended job and the model."""
    model = base_model.read(base)
    training = training_forecast(model, train_spec(), Plan(), 4, torch=torch_build.installed())
    served = inference_forecast(model, CONTEXT)
    other = training.at_rest if suspended else training
    together = other.peak_bytes + served.peak_bytes - (0 if suspended else model.size_bytes)
    least = max(training.peak_bytes, served.peak_bytes)
    assert together - MIB > least, "there would be no room for one alone"
    return (together - MIB) // MIB


@pytest.fixture
async def stubs(
    kitchen: Kitchen, base: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stubs]:
    kitchen.daemon.stop()
    most = most_mib(base, suspended=request.param == "not even suspended")
    kitchen.daemon.write_config(
        f"[memory]\nmost_mib = {most}\n"
        f"[inference]\nthreads = 1\ncontext_length = {CONTEXT}\nquiet_s = 0.5\n"
    )
    kitchen.daemon.start()
    async with kitchen.daemon.stubs() as connected:
        await kitchen.stock(connected)
        yield connected
        await connected.jobs.CancelJob(CancelJobRequest(job_id=FIRST))


async def ask(stubs: Stubs, base: Path) -> list[GenerateResponse]:
    request = GenerateRequest(base_digest=digest.of_file(base), prompt="Hello", max_tokens=8)
    return [response async for response in stubs.inference.Generate(request)]


async def loaded(stubs: Stubs) -> bool:
    device = (await stubs.device.GetDevice(GetDeviceRequest())).device
    return device.HasField("loaded_model")


def is_progress(event: JobEvent) -> bool:
    return event.HasField("progress")


async def after(stubs: Stubs, act: str) -> JobEvent:
    """The first step of the job after it was decided so."""
    decided = await until(stubs, lambda event: event.decided.act == act)
    return await until(stubs, lambda event: is_progress(event) and event.seq > decided.seq)


@pytest.mark.parametrize("stubs", ["suspended"], indirect=True)
async def test_a_job_makes_room_for_a_request_and_goes_on_after_it(
    stubs: Stubs, kitchen: Kitchen, base: Path
) -> None:
    await submit(stubs, kitchen.spec(steps=ENDLESS))
    await until(stubs, is_progress)
    answer = await ask(stubs, base)
    assert answer[-1].usage.completion_tokens == 8
    assert await loaded(stubs)
    suspended = await until(stubs, lambda event: event.HasField("decided"))
    assert suspended.decided.act == "suspend the job"
    assert "A request wants the served model. It needs" in suspended.decided.reason
    before = [event async for event in events_until(stubs, suspended.seq) if is_progress(event)]
    again = await after(stubs, "resume the job")
    assert again.attempt == suspended.attempt == 1
    assert again.progress.step > before[-1].progress.step
    assert not await loaded(stubs), "both fit, and nothing was tested"


async def events_until(stubs: Stubs, seq: int) -> AsyncIterator[JobEvent]:
    async for event in events(stubs):
        if event.seq >= seq:
            return
        yield event


@pytest.mark.parametrize("stubs", ["not even suspended"], indirect=True)
async def test_a_job_that_is_too_large_even_at_rest_leaves_a_checkpoint_and_comes_back(
    stubs: Stubs, kitchen: Kitchen, base: Path
) -> None:
    await submit(stubs, kitchen.spec(steps=ENDLESS))
    await until(stubs, is_progress)
    assert (await ask(stubs, base))[-1].usage.completion_tokens == 8
    stopped = await until(stubs, lambda event: event.HasField("decided"))
    assert stopped.decided.act == "stop the job at a checkpoint"
    assert "Suspending the job is not enough." in stopped.decided.reason
    saved = await until(stubs, lambda e: e.HasField("checkpoint") and e.seq > stopped.seq)
    again = await until(stubs, lambda event: is_progress(event) and event.attempt == 2)
    assert again.progress.step == saved.checkpoint.step + 1


@pytest.mark.parametrize("stubs", ["suspended"], indirect=True)
async def test_a_job_that_holds_its_memory_is_not_disturbed(
    stubs: Stubs, kitchen: Kitchen, base: Path
) -> None:
    await submit(stubs, kitchen.spec(steps=ENDLESS, holds_memory=True))
    first = await until(stubs, is_progress)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stubs, base)
    refused = status.from_rpc_error(caught.value, "the device")
    assert isinstance(refused, errors.OutOfMemory)
    assert "beside the training job persona" in refused.why
    later = await until(stubs, lambda event: is_progress(event) and event.seq > first.seq + 5)
    seen = [event async for event in events_until(stubs, later.seq)]
    assert not any(event.HasField("decided") for event in seen)


@pytest.mark.parametrize("stubs", ["suspended"], indirect=True)
async def test_a_suspended_job_can_be_cancelled_and_an_agent_with_one_stopped(
    stubs: Stubs, kitchen: Kitchen, base: Path
) -> None:
    await submit(stubs, kitchen.spec(steps=ENDLESS))
    await until(stubs, is_progress)
    await ask(stubs, base)
    canceled = await stubs.jobs.CancelJob(CancelJobRequest(job_id=FIRST))
    assert canceled.job.attempts[-1].ended.utc_ns > 0
    await asyncio.wait_for(stubs.jobs.CancelJob(CancelJobRequest(job_id=FIRST)), 30)
