"""A worker that breaks the protocol is ended, and those who wait for it hear of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.serving.session import Session
from agent.workers.process import Launcher
from agent.workers.watchdog import Limits
from artifacts.digest import of_bytes
from protos.errors import WorkerFailed
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from protos.nanofleet.v1.worker_pb2 import InferenceCommand, InferenceReport, OpenModel

BASE = of_bytes(b"base")
SHORT = Limits(period_s=0.05, silence_s=0.5)


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    launcher = Launcher(tmp_path, "boot-1")
    worker = await launcher.start(
        "tests.agent.serving.babbler", InferenceReport, tmp_path / "log", name="inference"
    )

    async def ended(_: Session) -> None:
        pass

    async def freed(_: Session, adapter: str) -> None:
        pass

    made = Session(worker, BASE, on_end=ended, on_freed=freed, watch=SHORT)
    await worker.send(InferenceCommand(open=OpenModel()))
    await made.ready()
    yield made
    worker.kill()
    await made.close()


async def answer(session: Session, prompt: str) -> str:
    request = GenerateRequest(prompt=prompt)
    generation = session.begin(request)
    await session.start(generation, request, "")
    return "".join([response.text async for response in generation.responses()])


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("no message", "The inference worker sent what is no report: a frame of 3 bytes is no"),
        ("open", "The inference worker sent a report that cannot be taken in"),
    ],
)
async def test_what_is_no_report_ends_the_session(session: Session, prompt: str, why: str) -> None:
    with pytest.raises(WorkerFailed, match=why):
        await asyncio.wait_for(answer(session, prompt), timeout=30)
    assert (await asyncio.wait_for(session.worker.wait(), timeout=30)).code == -9
    assert not session.suits(BASE, 0)


async def test_one_that_hangs_is_ended_and_one_that_nobody_asks_is_not(session: Session) -> None:
    await asyncio.sleep(2 * SHORT.silence_s)
    assert session.suits(BASE, 0)
    with pytest.raises(WorkerFailed, match="The inference worker hung and was ended") as caught:
        await asyncio.wait_for(answer(session, "hang"), timeout=30)
    assert "Send the request again" in caught.value.fix
    assert not session.suits(BASE, 0)
