"""What the agent takes of a board while it does nothing but look at it.

    python -m benchmarks.agent                          # about a quarter of an hour
    python -m benchmarks.agent --minutes 2 --only rest  # shorter, less steady

rest      A real agent with the settings of its first start, on a simulated AGX Orin of which every
          sensor there is can be read, joined over mTLS; a client streams its telemetry, sample by
          sample. After --warm-up seconds it is looked at every five seconds for --minutes: PSS from
          /proc/PID/smaps_rollup, the median; processor time from /proc/PID/stat, of one core,
          between the first look and the last. The agent moves the simulated board itself, which no
          real one has to pay: it is not subtracted, and has a row of its own. The client maps the
          same libraries, and PSS counts them by halves; where no other process maps them it is
          little less than RSS, which has a row, too.
ready     The same agent, started again and again: from its start to the answer to a GetDevice over
          mTLS; the median.
sources   Processor time of reading each source of a sample, 2,000 times over the same tree. A real
          board's sensors sit on a bus: there it takes longer, and waiting is no processor time.
day       86,400 samples of that board through the sampler into the real ring, with a course of load
          as a day may have it (benchmarks/day.py), as simulated and with sensors that tremble: what
          they take on the disk, and what of them is still there at the end.

This process and the agent are on one machine. Prints a table, and writes every single look as JSON.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agent.telemetry.board import BoardSensors
from agent.telemetry.sampler import Sampler
from agent.telemetry.simulation import SimulatedBoard, Wanted
from benchmarks import day, report
from benchmarks.board import DEVICE, median
from benchmarks.measuring import cpu_s
from benchmarks.report import Row, table
from controller import Fleet
from controller.demo.processes import free_port
from jetson import memory
from jetson.simulation import tree
from jetson.simulation.boards import BOARDS, tree_of
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample
from tests.controller.agents import Agent

RESULTS = Path(__file__).parent / "results" / "agent.json"
PACKAGES = ("grpcio", "protobuf", "psutil")
BOARD = "agx-orin-devkit"
# Millions of files are replaced for a day; the bytes of a ring are the same anywhere.
_IN_MEMORY = Path("/dev/shm")
_LOOK_S = 5.0
_READS = 2_000
_MIB = 1 << 20


@dataclass(slots=True)
class Bench:
    """``runs``: every single value, by its name. ``recorded``: the tree of the board."""

    scratch: Path
    minutes: float
    hours: float
    warm_up_s: float
    repeats: int
    reads: int
    recorded: Path
    runs: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.runs.setdefault(name, []).append(value)


def write_board(folder: Path) -> Path:
    """The tree of the board with what only root, or only some, can read of it."""
    tree.write(
        {
            **tree_of(BOARDS[BOARD]),
            **tree.supply("ucsi-source-psy-1", "USB", online=1),
            **tree.supply("battery", "Battery", status="Charging", capacity=87),
            "sys/kernel/debug/bpmp/debug/clk/emc/rate": b"3199000000\n",
            "sys/kernel/debug/nvmap/iovmm/clients": b"total                61440K\n",
        },
        folder,
    )
    return folder


@asynccontextmanager
async def joined(bench: Bench) -> AsyncIterator[tuple[Fleet, Agent]]:
    """An agent that is not started yet, with the settings that it has when nobody wrote any."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        agent = Agent(DEVICE, Path(folder) / DEVICE, free_port())
        (agent.state / "agent.toml").unlink()
        async with Fleet.create(Path(folder) / "home", name="bench") as fleet:
            await agent.join(fleet)
            yield fleet, agent


async def rest(bench: Bench) -> list[Row]:
    async with joined(bench) as (fleet, agent):
        await asyncio.to_thread(_start, agent, bench)
        streaming = asyncio.create_task(_stream(fleet, bench))
        try:
            await asyncio.sleep(bench.warm_up_s)
            bench.runs.pop("samples", None)
            began_s, began_cpu_s = time.perf_counter(), cpu_s(agent.pid)
            while time.perf_counter() - began_s < bench.minutes * 60:
                await asyncio.sleep(_LOOK_S)
                mapped = _mapped(agent.pid)
                for name in ("Pss", "Anonymous", "Rss"):
                    bench.note(f"{name}, MiB", mapped[name] / _MIB)
            passed_s = time.perf_counter() - began_s
            spent_s = cpu_s(agent.pid) - began_cpu_s
            if streaming.done():
                streaming.result()  # Raises what has ended it.
        finally:
            streaming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await streaming
            await asyncio.to_thread(agent.stop)
    pss, anonymous, rss = (
        median(bench.runs[f"{name}, MiB"]) for name in ("Pss", "Anonymous", "Rss")
    )
    seen = len(bench.runs["samples"]) / passed_s
    return [
        Row("at rest, PSS, median", pss, "MiB", at_most=40),
        Row("at rest, of it anonymous", anonymous, "MiB"),
        Row("at rest, RSS, median", rss, "MiB"),
        Row("at rest, of one core", 100 * spent_s / passed_s, "%", at_most=1),
        Row("samples that the client saw", seen, "/s"),
    ]


async def ready(bench: Bench) -> list[Row]:
    async with joined(bench) as (fleet, agent):
        for _ in range(bench.repeats):
            began_s = time.perf_counter()
            await asyncio.to_thread(_start, agent, bench)
            status = await fleet.status(DEVICE)
            bench.note("start to an answer, s", time.perf_counter() - began_s)
            await asyncio.to_thread(agent.stop)
            if not status.reachable:
                raise RuntimeError(f"the agent does not answer: {status.problem}")
    took = bench.runs["start to an answer, s"]
    return [Row("start to the answer to GetDevice, median", median(took), "s", at_most=2)]


async def sources(bench: Bench) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        board = SimulatedBoard(Wanted(BOARD, bench.recorded), Path(folder), lambda: [os.getpid()])
        sampler = Sampler(board.root, lambda: (), cpu_times=board.cpu_times, is_simulated=True)
        for name, read in _sources(board, sampler).items():
            read()
            began_ns = time.process_time_ns()
            for _ in range(bench.reads):
                read()
            bench.note(f"{name}, µs", (time.process_time_ns() - began_ns) / 1000 / bench.reads)
    return [
        Row(f"reading {name.removesuffix(', µs')}", values[0], "µs")
        for name, values in bench.runs.items()
        if name.endswith(", µs")
    ]


async def one_day(bench: Bench) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=_in_memory(bench)) as folder:
        days = day.record(Path(folder), Wanted(BOARD, bench.recorded), round(bench.hours * 3600))
    rows = []
    for name, kept in days.items():
        for figure, value in asdict(kept).items():
            bench.note(f"{figure}, {name}", value)
        whole = f"{bench.hours:g} hours"
        rows += [
            Row(f"{whole} on the disk, {name}", kept.day_bytes / 1e6, "MB", at_most=5),
            Row(
                f"{whole}, still in the ring, {name}",
                kept.samples / 3600,
                "h",
                at_least=bench.hours,
            ),
            Row(f"bytes of a sample in protobuf, {name}", kept.plain_bytes_per_sample, "bytes"),
            Row(f"appending a sample, {name}", kept.append_us, "µs"),
        ]
    file_bytes = next(iter(days.values())).file_bytes
    return [*rows, Row("the ring's file", file_bytes / 1e6, "MB", at_most=5)]


def _in_memory(bench: Bench) -> Path:
    return _IN_MEMORY if _IN_MEMORY.is_dir() else bench.scratch


def _start(agent: Agent, bench: Bench) -> None:
    agent.start("--board", BOARD, "--root", str(bench.recorded))


async def _stream(fleet: Fleet, bench: Bench) -> None:
    async for sample in fleet.telemetry(DEVICE):
        bench.note("samples", sample.boottime_ns / 1e9)


def _mapped(pid: int) -> Mapping[str, int]:
    """What proc_pid_smaps_rollup(5) tells, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {
        name: int(kb) * 1024 for name, kb, *_ in (line.replace(":", "").split() for line in lines)
    }


def _sources(board: SimulatedBoard, sampler: Sampler) -> Mapping[str, Callable[[], object]]:
    """By what a sample calls them."""
    root, sensors = board.root, BoardSensors(board.root)

    def heat() -> None:
        sensors.add_heat(TelemetrySample())

    return {
        "power (INA)": sensors.power,
        "heat": heat,
        "GPU": sensors.gpu,
        "memory, all of it": lambda: sensors.memory(0, None),
        "of it zram": lambda: memory.read_zram(root),
        "of it pressure (PSI)": lambda: memory.read_pressure_percent(root),
        "of it the largest free block": lambda: memory.read_free_block(root),
        "swap-in": lambda: memory.read_swapped_in_bytes(root),
        "processor's clocks": lambda: sensors.cpu(0.0),
        "EMC": sensors.emc,
        "over-current": sensors.over_current,
        "supply": sensors.supply,
        "power mode and cores, every fifth sample": sensors.read_state,
        "the agent's own memory": lambda: memory.read_process(os.getpid()),
        "a whole sample": sampler.sample,
        "moving the simulated board": board.move,
    }


GROUPS = {"ready": ready, "sources": sources, "rest": rest, "day": one_day}


def main(argv: Sequence[str] | None = None) -> int:
    parser = report.parser("agent", __doc__)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--minutes", type=float, default=10.0, help="of rest that are looked at")
    parser.add_argument("--hours", type=float, default=24.0, help="of the day that is written")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds before them")
    parser.add_argument("--repeat", type=int, default=7, help="starts")
    report.choose(parser, "--only", GROUPS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        bench = Bench(
            scratch=arguments.scratch,
            minutes=arguments.minutes,
            hours=arguments.hours,
            warm_up_s=arguments.warm_up,
            repeats=arguments.repeat,
            reads=_READS,
            recorded=write_board(Path(folder) / "recorded"),
        )
        rows = asyncio.run(report.in_turn(GROUPS, arguments.only, bench))
    print(table(rows))
    bench.runs.pop("samples", None)
    report.write(arguments.json, {**report.measured(PACKAGES, rows), "runs": bench.runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
