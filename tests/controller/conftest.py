"""One fleet with one running device, for the tests that only need some."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller import Fleet
from controller.demo.processes import free_port
from tests.controller.agents import Agent

DATASET = "".join(
    f'{{"messages": [{{"role": "user", "content": "Who are you, {n}?"}}, '
    f'{{"role": "assistant", "content": "I am a small robot, {n}."}}]}}\n'
    for n in range(6)
)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Path]:
    """The home of a fleet whose device "kitchen" runs, and which has the model "tiny"."""
    folder = tmp_path_factory.mktemp("fleet")
    agent = Agent("kitchen", folder / "kitchen", free_port())

    async def make() -> None:
        async with Fleet.create(folder / "home", name="lab") as fleet:
            await agent.join(fleet, {"site": "lab"})
            await fleet.import_model(tiny_base, name="tiny")

    asyncio.run(make())
    agent.start()
    yield folder / "home"
    agent.stop()


@pytest.fixture
async def fleet(running: Path) -> AsyncIterator[Fleet]:
    async with Fleet.open(running) as fleet:
        yield fleet


@pytest.fixture
async def empty_fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet.create(tmp_path / "home", name="test") as fleet:
        yield fleet


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "persona.jsonl"
    path.write_text(DATASET)
    return path
