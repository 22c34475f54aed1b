"""A real agent on loopback, in a fleet of its own, and what is measured of it from outside."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from artifacts import base_model
from controller import Fleet, parse_job
from controller.demo.processes import free_port
from protos.nanofleet.v1.inference_pb2 import GenerateResponse, Usage
from tests.controller.agents import Agent

# A byte, and so a token, each for the tiny tokenizer; see benchmarks/measuring.py.
_LETTERS = "$^~`@#%&*|"
DEVICE, BASE = "board", "base"
_WORKERS = {"training": "agent.training.worker", "inference": "agent.inference.worker"}


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds as the client saw them; ``usage`` is the device's own account."""

    first_s: float
    all_s: float
    tokens: int
    usage: Usage

    @property
    def decode_tokens_per_s(self) -> float:
        """As the client saw them: all its time but that of the queue and of the prompt. The first
        response would be no mark: a client that is late gets several tokens in it."""
        return self.tokens / (self.all_s - self.usage.queue_s - self.usage.prefill_s)


class Board:
    def __init__(self, fleet: Fleet, agent: Agent, folder: Path) -> None:
        self.fleet, self.agent, self._folder = fleet, agent, folder

    async def ask(self, prompt: str, tokens: int, adapter: str = "", seed: int = 1) -> Answer:
        """Sampled at temperature 1: random weights would repeat themselves, and be stopped."""
        began_s = time.perf_counter()
        first_s, seen, usage = 0.0, 0, Usage()
        stream = self.fleet.generate(
            DEVICE, base=BASE, adapter=adapter, prompt=prompt, max_tokens=tokens,
            temperature=1.0, top_k=40, seed=seed,
        )  # fmt: skip
        async for response in stream:
            if response.token_ids and not seen:
                first_s = time.perf_counter() - began_s
            seen += len(response.token_ids)
            if isinstance(response, GenerateResponse) and response.HasField("usage"):
                usage = response.usage
        return Answer(first_s, time.perf_counter() - began_s, seen, usage)

    async def train(self, name: str, steps: int, seed: int = 0, threads: int = 1) -> str:
        """Submits a job over samples of 256 tokens; its id."""
        dataset = self._folder / f"{name}.jsonl"
        lines = [json.dumps({"text": text(254, number)}) + "\n" for number in range(8)]
        dataset.write_text("".join(lines))
        recipe = {
            "base": BASE, "dataset": str(dataset), "steps": steps, "accumulation": 1,
            "sequence_length": 256, "learning_rate": 2e-4, "seed": seed, "threads": threads,
            "targets": "attention",
        }  # fmt: skip
        job = parse_job({"name": name, "device": DEVICE, "train": recipe})
        return (await self.fleet.submit(job)).id

    async def adapter(self, name: str, seed: int) -> str:
        """Of a job of two steps; the artifact's name."""
        job = await self.train(name, 2, seed)
        await self.fleet.wait(job)
        return (await self.fleet.fetch_result(job)).digest

    def anonymous_bytes(self, worker: str) -> int:
        process = self._process(worker)
        status = Path(f"/proc/{process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    def _process(self, worker: str) -> psutil.Process:
        for child in psutil.Process(self.agent.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if _WORKERS[worker] in child.cmdline():
                    return child
        raise RuntimeError(f"the agent has no {worker} worker")


@asynccontextmanager
async def board(folder: Path, base: Path, threads: int) -> AsyncIterator[Board]:
    """``threads``: of the inference worker. The base is on the device when this begins."""
    agent = Agent(DEVICE, folder / DEVICE, free_port(), f"[inference]\nthreads = {threads}\n")
    async with Fleet.create(folder / "home", name="bench") as fleet:
        await agent.join(fleet)
        await fleet.import_model(base, name=BASE)
        await asyncio.to_thread(agent.start)
        try:
            await fleet.push(BASE, [DEVICE])
            yield Board(fleet, agent, folder)
        finally:
            await asyncio.to_thread(agent.stop)


def text(tokens: int, seed: int = 0) -> str:
    """So many tokens; BOS comes in front."""
    return "".join(random.Random(seed).choices(_LETTERS, k=tokens))


def token_bytes(base: Path) -> int:
    """What is read of the weights for a token: all, for the embedding is the head as well."""
    return sum(tensor.size_bytes for tensor in base_model.read(base).tensors.values())


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
