"""The machine that the agent runs on: this one, or the board that is simulated on it.

Everything that is read of it goes through one root. What a real board has no use for (the
simulation, another program beside the sensors) is imported when it is wanted.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent import config
from agent.telemetry.beside import Beside
from agent.telemetry.sampler import Sampler, WorkerStatus
from agent.workers import limits
from jetson.board import identify
from jetson.thermal import read_zones

if TYPE_CHECKING:
    from agent.telemetry.simulation import SimulatedBoard, Wanted

_LOG = logging.getLogger(__name__)


class Machine:
    """``workers`` are those that live now; it is called once the agent is complete."""

    def __init__(
        self,
        state: Path,
        settings: config.Telemetry,
        workers: Callable[[], Sequence[WorkerStatus]],
        simulated: "Wanted | None" = None,
    ) -> None:
        self._state = state
        self._workers = workers
        self._simulation = self._simulated(simulated) if simulated else None
        self._beside = Beside.of(settings)
        self.root = self._simulation.root if self._simulation else Path("/")
        # A simulated Jetson is built as a Jetson is; the agent runs on this processor all the same.
        self.board = identify(self.root, "aarch64" if self._simulation else "")
        self.zones = read_zones(self.root)
        self.limits = self._limits()
        if isinstance(self.limits, limits.Absent):
            _LOG.info("workers run without a memory limit: %s", self.limits.why)

    @property
    def simulated(self) -> str:
        """The name of the simulated board; empty on a real one."""
        return self._simulation.name if self._simulation else ""

    def sampler(self) -> Sampler:
        if self._simulation is not None:
            return Sampler(
                self.root,
                self._workers,
                state=self._state,
                cpu_times=self._simulation.cpu_times,
                is_simulated=True,
            )
        if self._beside is not None:
            return Sampler(
                self.root,
                self._workers,
                state=self._state,
                beside=self._beside.newest,
                beside_source=self._beside.source,
            )
        return Sampler(self.root, self._workers, state=self._state)

    async def run(self) -> None:
        """Moves the simulated board, or reads the program beside the sensors, until cancelled."""
        if self._simulation is not None:
            await self._simulation.run()
        elif self._beside is not None:
            await self._beside.run()
        else:
            await asyncio.Event().wait()

    def limit(self, worker: str, limit_bytes: int) -> limits.Group | None:
        """A fresh control group for the worker. It bears the number of the state folder: another
        agent on this machine would take it away between its making and its use.
        """
        if isinstance(self.limits, limits.Absent):
            return None
        try:
            return self.limits.make(f"{worker}-{self._number}", limit_bytes)
        except OSError as error:
            _LOG.warning("the %s worker runs without a memory limit: %s", worker, error)
            return None

    @property
    def _number(self) -> int:
        return self._state.stat().st_ino

    def _simulated(self, wanted: "Wanted") -> "SimulatedBoard":
        from agent.telemetry.simulation import SimulatedBoard

        def pids() -> Sequence[int]:
            return [os.getpid(), *(worker.pid for worker in self._workers())]

        return SimulatedBoard(wanted, self._state, pids)

    def _limits(self) -> limits.Limits | limits.Absent:
        """On a simulated board all workers together get what the board has for them."""
        found = limits.find()
        if self._simulation is None or isinstance(found, limits.Absent):
            return found
        try:
            return found.within(f"board-{self._number}", self._simulation.available_bytes)
        except OSError as error:
            return limits.Absent(f"no memory control group of the board's size ({error.strerror})")
