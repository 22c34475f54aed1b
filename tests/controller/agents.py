"""Real agents on loopback: joined by the command line, run as their own process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from controller import Fleet

ROOT = Path(__file__).parents[2]
_READY = re.compile(r"nanofleet-agent \S+ ready: (\S+) on \S+:(\d+)")
_CONFIG = """\
[artifacts]
reserve_mib = 1
[telemetry]
ring_mib = 1
period_s = 0.2
"""


class Agent:
    """One device: its state folder, its port, and its process while it runs."""

    def __init__(self, name: str, state: Path, port: int, config: str = "") -> None:
        self.name = name
        self.state = state
        self.port = port
        self._process: subprocess.Popen[str] | None = None
        state.mkdir(parents=True)
        (state / "agent.toml").write_text(_CONFIG + config)

    async def join(self, fleet: Fleet, labels: dict[str, str] | None = None) -> None:
        async with fleet.enrolment("127.0.0.1", 0) as server:
            token = fleet.new_token(self.name, address=server.address, labels=labels or {})
            process = self._run("join", token.text, "--advertise", f"127.0.0.1:{self.port}")
            await server.joined(self.name, 60)
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0, said

    def start(self, *options: str) -> None:
        """Returns when it serves."""
        listen = ("--host", "127.0.0.1", "--port", str(self.port))
        self._process = self._run("run", *listen, *options)
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if _READY.match(line):
                return
        self.stop()
        raise AssertionError(f"the agent did not become ready: {said}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _run(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent.cli", command, "--state", str(self.state), *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.communicate(timeout=60)
