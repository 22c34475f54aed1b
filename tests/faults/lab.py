"""A fleet on loopback that is made to be killed: one agent, a controller's program, real training.

The agent is looked after as systemd would: one that was killed is started again. The controller's
program (drive.py) is run again until it ends by itself, as a person would. ``Order`` says which of
the two dies, and where; it is given as an environment variable, which workers inherit.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import persisting
from artifacts.persisting import Point
from controller.demo.processes import free_port

ROOT = Path(__file__).parents[2]
DEVICE = "kitchen"
BASE = ROOT / "controller" / "demo" / "tiny" / "tiny-gemma3.gguf"
DATA = ROOT / "controller" / "demo" / "persona.jsonl"
CONFIG = """\
[artifacts]
reserve_mib = 1
[telemetry]
ring_mib = 1
period_s = 0.05
[inference]
threads = 1
context_length = 256
"""
# A program that was killed is run again, once; more would be a loop of crashes.
MOST_RUNS = 4
TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Order:
    """Kill at this passing of the point, on this side of it. ``mark`` appears when it is done."""

    point: Point
    side: str
    passing: int
    mark: Path

    def environment(self) -> Mapping[str, str]:
        text = f"{self.point.value}:{self.side}:{self.passing}:{self.mark}"
        return {persisting.VARIABLE: text}


NOTHING: Mapping[str, str] = {}


class Program:
    """A Python program of ours with its output in a file: a pipe that is full would stop it."""

    def __init__(
        self,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str] = NOTHING,
    ) -> None:
        self._log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it hangs; it said: {self.said()}") from None

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


class Device:
    """An agent, its state folder, and the port that is its own."""

    def __init__(self, state: Path, port: int, config: str = CONFIG) -> None:
        self.state = state
        self.port = port
        self.log = state.with_suffix(".log")
        self.starts = 0
        self.most_starts = MOST_RUNS
        self.may_fail = False
        self._program: Program | None = None
        state.mkdir(parents=True, exist_ok=True)
        self.configure(config)

    def configure(self, config: str) -> None:
        (self.state / "agent.toml").write_text(config)

    @property
    def pid(self) -> int:
        assert self._program is not None
        return self._program.process.pid

    def start(self, environment: Mapping[str, str] = NOTHING) -> None:
        """Does not wait until it serves: callers try again, as they must anyway."""
        self.starts += 1
        where = ("--state", str(self.state), "--host", "127.0.0.1", "--port", str(self.port))
        self._program = Program(self.log, ("-m", "agent.cli", "run", *where), environment)

    def move_to(self, folder: Path) -> None:
        """Its state to another disk, for instance; it is not running."""
        shutil.move(self.state, folder)
        self.state.symlink_to(folder)

    def join(self, token: str, environment: Mapping[str, str] = NOTHING) -> int:
        where = ("--state", str(self.state), "--advertise", f"127.0.0.1:{self.port}")
        return Program(self.log, ("-m", "agent.cli", "join", token, *where), environment).wait()

    @property
    def is_running(self) -> bool:
        return self._program is not None and self._program.process.poll() is None

    def look_after(self, environment: Mapping[str, str] = NOTHING) -> None:
        """Starts it again when it was killed; an end of another kind is the test's failure, unless
        ``may_fail`` says that it had a reason."""
        if self._program is None or self.is_running:
            return
        code = self._program.process.poll()
        has_reason = self.may_fail or code == -signal.SIGKILL
        assert has_reason, f"the agent ended with {code}: {self.said()}"
        assert self.starts < self.most_starts, f"the agent ends again and again: {self.said()}"
        self.start(environment)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        program, self._program = self._program, None
        if program is None:
            return 0
        program.process.send_signal(number)
        return program.wait(90)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


class Lab:
    """The home of a fleet and its device. ``copy`` makes another one from what was prepared."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.home = folder / "home"
        folder.mkdir(parents=True, exist_ok=True)
        self.device = Device(folder / DEVICE, port or free_port())

    def copy(self, folder: Path) -> "Lab":
        """The copy has the same port: only one of them runs at a time."""
        shutil.copytree(self.folder, folder)
        for log in folder.glob("*.log"):
            log.unlink()
        return Lab(folder, self.device.port)

    def drive(self, *story: str, environment: Mapping[str, str] = NOTHING) -> Program:
        log = self.folder / "drive.log"
        return Program(log, ("-m", "tests.faults.drive", str(self.folder), *story), environment)

    def play(
        self,
        *story: str,
        agent: Mapping[str, str] = NOTHING,
        controller: Mapping[str, str] = NOTHING,
    ) -> None:
        """Tells the controller's program a story until it has ended well, whoever is killed."""
        for _ in range(MOST_RUNS):
            program = self.drive(*story, environment=controller)
            code = self.both(program, agent)
            if code != -signal.SIGKILL:
                break
        assert code == 0, f"{program.said()}\n--- the agent:\n{self._agent_said()}"

    def settle(self, agent: Mapping[str, str]) -> None:
        """An agent that was killed after the story's end, while it tidied up, starts once more."""
        self.device.look_after(agent)

    def both(
        self, program: Program, agent: Mapping[str, str] = NOTHING, timeout_s: int = TIMEOUT_S
    ) -> int:
        """Waits for the program's end; meanwhile the agent is looked after."""
        for _ in range(timeout_s * 10):
            try:
                return program.process.wait(0.1)
            except subprocess.TimeoutExpired:
                self.device.look_after(agent)
        return program.wait(0)

    def _agent_said(self) -> str:
        return self.device.said() if self.device.log.exists() else ""
