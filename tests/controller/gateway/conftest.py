"""Two devices, a fleet that knows both, and `nanofleet serve` in front of them: real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controller import Fleet, parse_job
from controller.demo.processes import free_port
from tests.controller.agents import ROOT, Agent
from tests.controller.conftest import DATASET

CONFIG = "[inference]\nthreads = 1\n"


@dataclass(frozen=True)
class Pair:
    """The home of a fleet, and its devices "kitchen" (site=lab) and "porch" (site=field). Both have
    the model "tiny"; its adapter "persona" is on kitchen, where it was trained."""

    home: Path
    agents: dict[str, Agent]


@dataclass
class Service:
    """A running `nanofleet serve -o jsonl`; ``lines`` are those that it has printed, once read."""

    process: "subprocess.Popen[str]"
    url: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def read(self, event: str) -> dict[str, Any]:
        """The next line of that kind."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        assert self.process.stderr is not None
        raise AssertionError(f"it ended: {self.process.stderr.read()}")

    def request(self, path: str) -> dict[str, Any]:
        """The next line about a request to that path."""
        while (line := self.read("request"))["path"] != path:
            pass
        return line


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Service]:
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "serve", "--listen", "127.0.0.1:0",
         "-o", "jsonl", *arguments],
        cwd=ROOT,
        env={**os.environ, "NANOFLEET_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with process:
        service = Service(process)
        try:
            service.url = service.read("ready")["url"]
            yield service
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            said, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    assert complaints == ""
    assert said.splitlines()[-1:] == [] or json.loads(said.splitlines()[-1])


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    agents = {
        name: Agent(name, folder / name, free_port(), CONFIG) for name in ("kitchen", "porch")
    }
    (folder / "persona.jsonl").write_text(DATASET)

    async def make() -> None:
        async with Fleet.create(folder / "home", name="lab") as fleet:
            await agents["kitchen"].join(fleet, {"site": "lab"})
            await agents["porch"].join(fleet, {"site": "field"})
            await fleet.import_model(tiny_base, name="tiny")

    async def stock() -> None:
        async with Fleet.open(folder / "home") as fleet:
            await fleet.push("tiny", list(agents))
            train = {"base": "tiny", "dataset": str(folder / "persona.jsonl"), "steps": 2}
            job = parse_job({"name": "persona", "device": "kitchen", "train": train})
            done = await fleet.wait((await fleet.submit(job)).id, 120)
            await fleet.fetch_result(done.id)

    asyncio.run(make())
    for agent in agents.values():
        agent.start()
    asyncio.run(stock())
    yield Pair(folder / "home", agents)
    for agent in agents.values():
        agent.stop()


@pytest.fixture(scope="package")
def service(pair: Pair) -> Iterator[Service]:
    """Open: no key was made."""
    with serving(pair.home) as running:
        yield running


@pytest.fixture(scope="session")
def endless(tiny_folder: Path) -> dict[str, int]:
    """A ``logit_bias`` with which the tiny model never ends its turn."""
    vocabulary = json.loads((tiny_folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    return {str(ids[name]): -100 for name in ("<eos>", "<end_of_turn>")}
