"""The inference engine's figures, measured through a real agent over gRPC and mTLS.

    python -m benchmarks.inference                        # everything, about ten minutes
    python -m benchmarks.inference --only decode,switch   # some groups

On the shape of Gemma 3 1B with random weights in Q8_0, made once below --models. What is compared
runs in turn, --repeat times; ratios are of medians. The memory limit needs the right to make
control groups of version 1 (root). Prints a table, and writes every single run as JSON.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import board as boards
from benchmarks import measuring, report, shapes
from benchmarks.board import Answer, Board, board, median, text
from benchmarks.report import Row, table
from protos.errors import Busy
from protos.nanofleet.v1.job_pb2 import JOB_STATE_SUCCEEDED

RESULTS = Path(__file__).parent / "results" / "inference.json"
PACKAGES = ("llama-cpp-python", "grpcio", "torch")
CONTEXT = 2048
MB = 1e6
GB = 1e9
LIMIT_BYTES = int(1.8 * GB)
# The parent of the workers' own groups (agent/workers/limits.py).
GROUP = Path("/sys/fs/cgroup/memory/nanofleet")
_ANSWER_TOKENS = 96
_STEPS = 8


class Bench:
    """``runs``: every single value, by its name."""

    def __init__(self, base: Path, scratch: Path, repeats: int) -> None:
        self.base, self.scratch, self.repeats = base, scratch, repeats
        self.runs: dict[str, list[float]] = {}

    def note(self, name: str, *values: float) -> None:
        self.runs.setdefault(name, []).extend(values)

    def median(self, name: str) -> float:
        return median(self.runs[name])

    def board(self, threads: int) -> contextlib.AbstractAsyncContextManager[Board]:
        folder = Path(tempfile.mkdtemp(prefix="board.", dir=self.scratch))
        return board(folder, self.base, threads)


async def decode(bench: Bench) -> list[Row]:
    sizes = ("--context", str(CONTEXT), "--prompt", "32", "--tokens", str(_ANSWER_TOKENS))
    async with bench.board(threads=2) as agent:
        await agent.ask(text(31), 8)
        for turn in range(bench.repeats):
            # Its worker waits meanwhile, and takes no processor.
            alone = await asyncio.to_thread(
                measuring.in_process,
                "benchmarks.peers.bare_llama", str(bench.base), "--threads", "2", *sizes,
            )  # fmt: skip
            bench.note("bare tokens/s", *_numbers(alone["tokens_per_s"]))
            for number in range(3):
                answer = await agent.ask(text(31, 10 * turn + number), _ANSWER_TOKENS)
                bench.note("agent tokens/s", answer.decode_tokens_per_s)
            read = await asyncio.to_thread(
                measuring.in_process, "benchmarks.bandwidth", "2000", "2"
            )
            bench.note("read bytes/s", *_numbers([read["bytes_per_s"]]))
    limit = bench.median("read bytes/s") / boards.token_bytes(bench.base)
    reached, bare = bench.median("agent tokens/s"), bench.median("bare tokens/s")
    return [
        Row("decode through the agent", reached, "tokens/s"),
        Row("the same against a bare loop", reached / bare, "x", None, 0.97),
        Row("against the read bandwidth, two threads", 100 * reached / limit, "%", None, 80),
        Row("the bare loop against it", 100 * bare / limit, "%"),
    ]


async def switch(bench: Bench) -> list[Row]:
    """Memory with an adapter; the cost of another adapter; prefixes."""
    async with bench.board(threads=2) as agent:
        first, second = await agent.adapter("first", 1), await agent.adapter("second", 2)
        prompt = text(219)
        for adapter in (first, second):
            await agent.ask(prompt, 2, adapter)
        for _ in range(5 * bench.repeats):
            for name, adapter in (("switch s", first), ("stay s", first), ("switch s", second)):
                answer = await agent.ask(prompt, 2, adapter)
                bench.note(name, answer.usage.prefill_s)
        bench.note("anonymous bytes", agent.anonymous_bytes("inference"))
        await _prefixes(bench, agent)
    cost_ms = 1000 * (bench.median("switch s") - bench.median("stay s"))
    cold_s, warm_s = (bench.median(f"first token, {n} cached s") for n in ("none", "200"))
    anonymous = bench.median("anonymous bytes") / MB
    return [
        Row(f"worker at context {CONTEXT}, adapters in use: anonymous", anonymous, "MB", 250),
        Row("another cached adapter, cost to the next token", cost_ms, "ms", 10),
        Row("first token of 220, 200 cached, against none", cold_s / warm_s, "x faster", None, 6),
    ]


async def _prefixes(bench: Bench, agent: Board) -> None:
    for turn in range(3 * bench.repeats):
        system = text(199, 100 + turn)
        cold = await agent.ask(system + text(20, 200 + turn), 1)
        warm = await agent.ask(system + text(20, 300 + turn), 1)
        assert cold.usage.prompt_tokens == 220, cold.usage
        # Two random texts may begin alike, for some letters.
        assert cold.usage.cached_tokens < 10, cold.usage
        assert warm.usage.cached_tokens >= 200, warm.usage
        bench.note("first token, none cached s", cold.first_s)
        bench.note("first token, 200 cached s", warm.first_s)


async def both(bench: Bench) -> list[Row]:
    """Training and serving under one hard limit, page cache counted, on one thread each."""
    name = "training and serving at once"
    if not (GROUP.parent / "memory.limit_in_bytes").exists():
        return [Row(name, None, "GB", note="this machine has no control groups of version 1")]
    with _limited(LIMIT_BYTES):
        async with bench.board(threads=1) as agent:
            adapter = await agent.adapter("adapter", 1)
            # Warm: what an unlimited earlier run has read is not charged to the group.
            await _decode(bench, agent, adapter, "")
            for _ in range(bench.repeats):
                await _decode(bench, agent, adapter, "serving alone tokens/s")
                await agent.fleet.unload_model(boards.DEVICE)
                await _trained(bench, agent, "training alone s", beside=None)
                await _trained(bench, agent, "training beside s", beside=adapter)
        peak = int((GROUP / "memory.max_usage_in_bytes").read_text())
    kept = bench.median("serving beside tokens/s") / bench.median("serving alone tokens/s")
    speed = bench.median("training alone s") / bench.median("training beside s")
    return [
        Row("training and serving at once, peak of the group", peak / GB, "GB", 1.8),
        Row("decode beside training, of its speed alone", 100 * kept, "%", None, 75),
        Row("training beside serving, of its speed alone", 100 * speed, "%", None, 85),
    ]


async def _decode(bench: Bench, agent: Board, adapter: str, name: str) -> None:
    answer = await agent.ask(text(31, len(bench.runs.get(name, []))), _ANSWER_TOKENS, adapter)
    if name:
        bench.note(name, answer.decode_tokens_per_s)


async def _trained(bench: Bench, agent: Board, name: str, beside: str | None) -> None:
    """The seconds of a job's steps but the first two; meanwhile answers, one after another."""
    job = await agent.train(f"job-{len(bench.runs.get(name, []))}", _STEPS, threads=1)
    steps: list[float] = []

    async def serve() -> None:
        while beside is not None:
            if steps:
                await _decode(bench, agent, beside, "serving beside tokens/s")
            else:
                await agent.ask(text(3), 4, beside)

    serving = asyncio.create_task(serve())
    async for event in agent.fleet.watch(job):
        if event.HasField("progress") and event.progress.step > 2:
            steps.append(event.progress.micro_step_s)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert (await agent.fleet.wait(job)).state == JOB_STATE_SUCCEEDED
    bench.note(name, *steps)


async def crowd(bench: Bench) -> list[Row]:
    """64 clients at once; who is told to come again does so."""
    async with bench.board(threads=2) as agent:
        await agent.ask(text(31), 2)
        answers = await asyncio.gather(*(_patient(agent, number) for number in range(64)))
    complete = sum(answer.tokens == 16 for answer in answers)
    waits = sorted(answer.usage.queue_s for answer in answers)
    totals = sorted(answer.all_s for answer in answers)
    bench.note("crowd queue s", *waits)
    bench.note("crowd total s", *totals)
    return [
        Row("64 requests at once: complete", complete, "answers", None, 64),
        Row("their time in the device's queue, median", median(waits), "s"),
        Row("the longest", waits[-1], "s"),
        Row("the last answer against an even share of the time", totals[-1] / totals[31] / 2, "x"),
    ]


async def _patient(agent: Board, number: int) -> Answer:
    while True:
        try:
            return await agent.ask(text(31, number), 16)
        except Busy as error:
            await asyncio.sleep(error.retry_after_s or 1.0)


@contextlib.contextmanager
def _limited(limit_bytes: int) -> Iterator[None]:
    """This process, all that it starts, and the agent's workers in one group with a hard limit."""
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.limit_in_bytes").write_text(str(limit_bytes))
    (GROUP / "memory.max_usage_in_bytes").write_text("0")
    bench = GROUP / "bench"
    bench.mkdir(exist_ok=True)
    (bench / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (GROUP.parent / "cgroup.procs").write_text(str(os.getpid()))
        (GROUP / "memory.limit_in_bytes").write_text("-1")
        bench.rmdir()


def _numbers(values: object) -> list[float]:
    assert isinstance(values, list)
    return [float(value) for value in values]


GROUPS: Mapping[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "decode": decode,
    "switch": switch,
    "both": both,
    "crowd": crowd,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("inference", __doc__)
    parser.add_argument("--models", type=Path, default=report.models_folder())
    parser.add_argument("--repeat", type=int, default=3)
    report.choose(parser, "--only", GROUPS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    models = arguments.models.resolve()
    models.mkdir(parents=True, exist_ok=True)
    base = shapes.base(models, shapes.GEMMA3_1B, "q8_0")
    scratch = Path(tempfile.mkdtemp(prefix="runs.", dir=models))
    try:
        bench = Bench(base, scratch, arguments.repeat)
        rows = asyncio.run(report.in_turn(GROUPS, arguments.only, bench))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table(rows))
    report.write(arguments.json, {**report.measured(PACKAGES, rows), "runs": bench.runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
