"""Faults without end over jobs on one device: nothing lost, nothing twice, every result right."""

import asyncio
import random
import signal
import threading
from pathlib import Path

import pytest

from controller import Fleet
from controller.demo.processes import free_port
from protos.nanofleet.v1 import job_pb2
from tests.faults import oracle
from tests.faults.lab import TIMEOUT_S, Lab, Program
from tests.faults.link import Link
from tests.faults.oracle import Outcome
from tests.faults.storm import Ends, Stroke, strokes

# Jobs of four kinds, so that a result under the wrong job's name would show.
KINDS = 4


@pytest.fixture(scope="module")
def outcomes(born: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    lab = born.copy(tmp_path_factory.mktemp("calm") / "lab")
    lab.device.start()
    lab.play("storm", str(KINDS))
    lab.device.stop()
    return [oracle.outcome(lab, f"job-{number}") for number in range(KINDS)]


class Weather:
    """Strikes in a thread of its own until it is told to end; keeps what it did."""

    def __init__(self, ends: Ends, seed: int, most: int) -> None:
        self._ends, self._most = ends, most
        self._drawn = strokes(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weather")
        self.struck: list[Stroke] = []

    @property
    def is_spent(self) -> bool:
        return len(self.struck) == self._most

    def __enter__(self) -> "Weather":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        for stroke in self._drawn:
            if self._over.is_set() or self.is_spent:
                return
            self._ends.strike(stroke)
            self.struck.append(stroke)
            self._over.wait(stroke.pause_s)


class Storm:
    """The controller's program, run until it ends by itself, with the agent behind a bad link."""

    def __init__(self, lab: Lab, jobs: int) -> None:
        self._lab, self.jobs = lab, jobs
        self._program: Program | None = None
        self.runs = 0

    def controller_pid(self) -> int | None:
        program = self._program
        return program.process.pid if program and program.process.poll() is None else None

    def agent_pid(self) -> int | None:
        return self._lab.device.pid if self._lab.device.is_running else None

    def ride_out(self) -> None:
        """Whoever is killed is started again, as often as it takes."""
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            self.runs += 1
            self._program = self._lab.drive("storm", str(self.jobs))
            code = self._lab.both(self._program, timeout_s=TIMEOUT_S * self.jobs)
        said = self._program.said() if self._program else ""
        assert code == 0, f"{said}\n--- the agent:\n{self._lab.device.said()}"


def test_nothing_is_lost_in_a_storm(
    born: Lab, outcomes: list[Outcome], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    is_long = request.config.getoption("faults") == "all"
    jobs, faults = (100, 200) if is_long else (8, 20)
    seed = request.config.getoption("storm") or random.SystemRandom().randrange(1 << 32)
    print(f"the storm's seed is {seed}: pytest tests/faults/test_storm.py --storm {seed}")

    lab = born.copy(tmp_path / "lab")
    link_port = lab.device.port
    lab.device.port = free_port()  # the device is known by the link's
    lab.device.most_starts = 1 << 30
    lab.device.start()
    storm = Storm(lab, jobs)
    with Link(link_port, lab.device.port, seed) as link:
        ends = Ends(link, storm.agent_pid, storm.controller_pid)
        with Weather(ends, seed, faults) as weather:
            storm.ride_out()
            # Jobs that end before the storm does are followed by more.
            while not weather.is_spent:
                storm.jobs += KINDS
                storm.ride_out()
        lab.device.stop()
    starts = f"{lab.device.starts} starts of the agent, {storm.runs} of the controller"
    print(f"{faults} faults, {link.cuts} cuts, {storm.jobs} jobs, {starts}")
    for number in range(storm.jobs):
        oracle.check_job(lab, f"job-{number}", outcomes[number % KINDS])
    oracle.check_stores(lab)
    assert asyncio.run(succeeded(lab)) == storm.jobs


async def succeeded(lab: Lab) -> int:
    """Each job was submitted once."""
    async with Fleet.open(lab.home) as fleet:
        return len(fleet.jobs(states=[job_pb2.JOB_STATE_SUCCEEDED]))
