"""A board that is not there: `nanofleet-agent run --board nano-4gb`.

The board's files are in a folder of the state folder, and move with what this agent and its workers
do: the share of this machine's cores that they use is the board's load; from it come watts and,
with a time constant, degrees; their anonymous memory is missing from MemAvailable. Whatever this
machine lacks is not there on the board either. All of it is labelled as simulated wherever it is
shown.

What a person writes into the other files stays: counters of over-current, chargers, batteries. A
number in ``warmer_celsius`` of the folder is added to every temperature: a board in the sun.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from jetson import boot, memory
from jetson.simulation import replay, tree
from jetson.simulation.boards import BOARDS, tree_of
from jetson.simulation.plant import Plant
from jetson.simulation.replay import Replay
from jetson.sysfs import read_bytes, read_int
from protos.errors import InvalidRequest

FOLDER = "board"
PERIOD_S = 1.0
_PRESSURE = "proc/pressure/memory"
_SWAPPED = "proc/vmstat"
WARMER = "warmer_celsius"
_WARMER_CELSIUS = range(-100, 101)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The board by name, and the tree that was recorded on it; None: the one that is shipped."""

    board: str
    recorded: Path | None = None

    def __post_init__(self) -> None:
        if self.board not in BOARDS:
            raise InvalidRequest(
                f"There is no board {self.board!r} to simulate.",
                fix=f"Known: {', '.join(BOARDS)}.",
                field="board",
            )
        if self.recorded is not None and memory.read_memory(self.recorded) is None:
            raise InvalidRequest(
                f"{self.recorded} is not the tree of a board.",
                why="It has no proc/meminfo with MemTotal and MemAvailable.",
                fix="Give the folder that holds its proc, sys, etc and var.",
                field="root",
            )


class SimulatedBoard:
    """The live tree is below ``root``. ``pids`` are the agent and its workers."""

    def __init__(
        self,
        wanted: Wanted,
        state: Path,
        pids: Callable[[], Sequence[int]],
        boottime_ns: Callable[[], int] = boot.boottime_ns,
    ) -> None:
        self.name = wanted.board
        self.root = state / FOLDER
        _lay_out(wanted, self.root)
        self._replay = Replay(self.root)
        self._plant = Plant(BOARDS[wanted.board].draw)
        self._pids = pids
        self._boottime_ns = boottime_ns
        self._moved_ns = boottime_ns()
        self._spent_s: dict[int, float] = {}
        self._busy_s = self._passed_s = 0.0
        self._cores = len(os.sched_getaffinity(0))
        # This machine's own: what waits here waits on the board.
        self._shared = [name for name in (_PRESSURE, _SWAPPED) if (self.root / name).exists()]
        self._replay.show("proc/sys/kernel/random/boot_id", f"{boot.boot_id()}\n".encode())
        self._show(0.0, ())

    @property
    def available_bytes(self) -> int:
        """What the board at rest has for the agent and its workers."""
        return self._replay.available_bytes

    def cpu_times(self) -> tuple[float, float]:
        """Seconds of all cores that the agent and its workers were busy, and all of them."""
        return self._busy_s, self._passed_s

    def move(self) -> None:
        """Brings the files up to now. Reads a few of /proc and writes a few: milliseconds."""
        now_ns = self._boottime_ns()
        passed_s, self._moved_ns = (now_ns - self._moved_ns) / 1e9, now_ns
        pids = self._pids()
        busy_s = self._newly_spent_s(pids)
        load = min(1.0, busy_s / (passed_s * self._cores)) if passed_s > 0 else 0.0
        self._busy_s += load * passed_s * self._cores
        self._passed_s += passed_s * self._cores
        self._plant.pass_time(passed_s, load)
        self._show(load, pids)

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Moves the board until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.move)
            except OSError as error:
                _LOG.warning("the simulated board stands still: %s", error)
            await sleep(PERIOD_S)

    def _show(self, load: float, pids: Sequence[int]) -> None:
        self._replay.move(
            power_mw=self._plant.power_mw,
            rise_celsius=self._plant.rise_celsius + self._warmer_celsius,
            load=load,
            available_bytes=self._left_bytes(pids),
        )
        for name in self._shared:
            if told := read_bytes(Path("/", name)):
                self._replay.show(name, told)

    @property
    def _warmer_celsius(self) -> int:
        return read_int(self.root / WARMER, _WARMER_CELSIUS) or 0

    def _newly_spent_s(self, pids: Sequence[int]) -> float:
        """Processor time since the last look. A worker that is new has spent all of its time since
        then; what the agent's own start took, before the first look, was no load."""
        before, self._spent_s = self._spent_s, _spent_s(pids)
        if not before:
            return 0.0
        return sum(max(0.0, spent - before.get(pid, 0.0)) for pid, spent in self._spent_s.items())

    def _left_bytes(self, pids: Sequence[int]) -> int:
        used = (memory.read_process(pid) for pid in pids)
        taken_bytes = sum(process.anonymous_bytes for process in used if process)
        left_bytes = self._replay.available_bytes - taken_bytes
        here = memory.read_memory()
        return min(left_bytes, here.available_bytes) if here else left_bytes


def _lay_out(wanted: Wanted, root: Path) -> None:
    """Anew: what the last run left had moved."""
    if root.exists():
        shutil.rmtree(root)
    if wanted.recorded is not None:
        replay.copy(wanted.recorded, root)
    else:
        tree.write(tree_of(BOARDS[wanted.board]), root)


def _spent_s(pids: Sequence[int]) -> dict[int, float]:
    found = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue  # It has ended since it was named.
        found[pid] = times.user + times.system
    return found
