"""What durability costs, and how fast a device goes on: through a real agent over gRPC and mTLS.

    python -m benchmarks.durability                 # about three minutes
    python -m benchmarks.durability --only journal  # some groups

With the tiny model that is shipped: the worker's own start (imports, weights) is not measured here.
This process and the agent are on one machine and share its clocks. The disk is that of --scratch.
Prints a table, and writes every single run as JSON.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from agent.clock import SystemClock
from agent.jobs import states
from agent.jobs.journal import Journal
from benchmarks import report
from benchmarks.board import Board, board
from benchmarks.report import Row, table
from controller.demo.story import BASE_MODEL
from protos.nanofleet.v1 import job_pb2

RESULTS = Path(__file__).parent / "results" / "durability.json"
PACKAGES = ("grpcio", "protobuf")
_RUNNING = job_pb2.JOB_STATE_RUNNING
_JOB = "01JD00000000000000000000A1"
_ENDLESS = 100_000
_MS = 1e3
_STAGES = ("the whole submission to the start", "assigned to start", "queued to start")


class Bench:
    """``runs``: every single value, by its name."""

    def __init__(self, scratch: Path, repeats: int) -> None:
        self.scratch, self.repeats = scratch, repeats
        self.runs: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        self.runs.setdefault(name, []).append(value)

    def share(self, name: str, fraction: float) -> float:
        """The value that this fraction of the runs do not exceed."""
        values = sorted(self.runs[name])
        return values[min(len(values) - 1, int(fraction * len(values)))]


async def start(bench: Bench) -> list[Row]:
    """From the call that a person makes to the moment at which the device runs the job: the dataset
    is checked, devices are asked and compared, the job is assigned, sent, queued, and taken."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        async with board(Path(folder), BASE_MODEL, threads=1) as device:
            await _started(device, bench, "warm-up")
            for stage in _STAGES:
                bench.runs.pop(f"{stage}, s")
            for number in range(bench.repeats):
                await _started(device, bench, f"job-{number}")
    rows = []
    for name in _STAGES:
        for fraction in (0.5, 0.99):
            at_most = 100 if (name, fraction) == (_STAGES[1], 0.99) else None
            value = bench.share(f"{name}, s", fraction) * _MS
            rows.append(Row(f"{name}, p{fraction * 100:.0f}", value, "ms", at_most=at_most))
    return rows


async def recovery(bench: Bench) -> list[Row]:
    """The agent is killed while a job runs, and started: until the queue goes on."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        async with board(Path(folder), BASE_MODEL, threads=1) as device:
            job_id = await device.train("endless", _ENDLESS)
            for attempt in range(1, max(4, bench.repeats // 10)):
                async for event in device.fleet.watch(job_id):
                    if event.attempt == attempt and event.HasField("progress"):
                        break
                device.agent.kill()
                began_s = _boottime_s()
                await asyncio.to_thread(device.agent.start)
                bench.note("start of the agent to its being ready, s", _boottime_s() - began_s)
                running_s = await _running(device, job_id, attempt + 1)
                bench.note("start of the agent to the job's, s", running_s - began_s)
            await device.fleet.cancel(job_id)
    name = "start of the agent to the job's, s"
    return [
        Row("agent's start to the queue going on, median", bench.share(name, 0.5), "s", at_most=3),
        Row("agent's start to the queue going on, worst", bench.share(name, 1.0), "s", at_most=3),
    ]


async def journal(bench: Bench) -> list[Row]:
    """Transitions, each on the disk before the next; and progress, which is synced now and then."""
    count = 20 * bench.repeats
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        opened = Journal(Path(folder) / "journal.db", SystemClock())
        opened.submit(_JOB, 1, job_pb2.JobSpec(name="bench").SerializeToString(), "bench")
        began_s = time.perf_counter()
        for _ in range(count // 2):
            opened.apply(_JOB, states.PauseAsked())
            opened.apply(_JOB, states.ResumeAsked())
        bench.note("transitions/s", count / (time.perf_counter() - began_s))
        opened.apply(_JOB, states.Started())
        began_s = time.perf_counter()
        for step in range(1, count + 1):
            opened.progress(_JOB, job_pb2.TrainProgress(step=step, loss=1.5))
        bench.note("progress/s", count / (time.perf_counter() - began_s))
        opened.close()
    return [
        Row("journal transitions, synced", bench.share("transitions/s", 0.5), "/s"),
        Row("progress events", bench.share("progress/s", 0.5), "/s"),
    ]


async def _started(device: Board, bench: Bench, name: str) -> None:
    """Notes how long it took to each mark; the job is cancelled when it runs."""
    began_ns = time.time_ns()
    job_id = await device.train(name, _ENDLESS)
    assigned_ns, queued_ns = device.fleet.job(job_id).created_utc_ns, 0
    async for event in device.fleet.watch(job_id):
        if event.transition.to == job_pb2.JOB_STATE_QUEUED:
            queued_ns = event.at.utc_ns
        if event.transition.to == _RUNNING:
            for stage, from_ns in zip(_STAGES, (began_ns, assigned_ns, queued_ns), strict=True):
                bench.note(f"{stage}, s", (event.at.utc_ns - from_ns) / 1e9)
            await device.fleet.cancel(job_id)
            await device.fleet.wait(job_id)
            return
    raise RuntimeError(f"the job {name} was never started")


async def _running(device: Board, job_id: str, attempt: int) -> float:
    async for event in device.fleet.watch(job_id):
        if event.attempt == attempt and event.transition.to == _RUNNING:
            return event.at.boottime_ns / 1e9
    raise RuntimeError(f"attempt {attempt} was never started")


def _boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


GROUPS: Mapping[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "journal": journal,
    "start": start,
    "recovery": recovery,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("durability", __doc__)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeat", type=int, default=100)
    report.choose(parser, "--only", GROUPS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.scratch, arguments.repeat)
    rows = asyncio.run(report.in_turn(GROUPS, arguments.only, bench))
    print(table(rows))
    report.write(arguments.json, {**report.measured(PACKAGES, rows), "runs": bench.runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
