"""The demo's devices: agents as processes of their own on loopback, each with its own state folder.

The controller knows the agent as a program, not as a package: it is started as a user would start
it, ``nanofleet-agent join`` and ``nanofleet-agent run``.
"""

import asyncio
import contextlib
import errno
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protos.errors import WorkerFailed

AGENT = (sys.executable, "-m", "agent.cli")
# An agent that ends is noticed at once; this is for one that hangs.
START_S = 60.0
STOP_S = 10.0
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port on loopback that is free, and stays so while its agent is down.

    Not one of those that the kernel gives to connections and to servers that ask for any: between
    two starts of the agent somebody would get it, one time in some thousands.
    """
    for port in random.SystemRandom().sample(_never_given(), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise WorkerFailed("No port on loopback is free.", fix="End some of the programs that listen.")


def _never_given() -> range:
    """The ports below the kernel's range; all, where that leaves too few."""
    try:
        lowest = int(_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768
    return range(10_000, lowest) if lowest >= 20_000 else range(10_000, 65_536)


@dataclass(slots=True)
class Agent:
    """One device of the demo. ``state`` is its folder; its log lies beside it."""

    name: str
    state: Path
    # Simulated: the demo has no board.
    board: str
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.state.with_suffix(".log")

    async def join(self, token: str) -> None:
        """Spends the token: `nanofleet-agent join`."""
        process = await asyncio.create_subprocess_exec(
            *self._command("join", token, "--advertise", self.address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise WorkerFailed(f"The demo's device {self.name} could not join: {output.decode()}")

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    async def start(self) -> None:
        """Starts `nanofleet-agent run` and waits until it accepts connections."""
        self.process = process = self._launch()
        host, port = self.address.rsplit(":", 1)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise WorkerFailed(f"The demo's device {self.name} did not start.", why=tail)

    def _launch(self) -> subprocess.Popen[bytes]:
        host, port = self.address.rsplit(":", 1)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command("run", "--host", host, "--port", port, "--board", self.board),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def pull_the_plug(self) -> None:
        """SIGKILL, as a power cut would: the agent gets no chance to tidy up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def _command(self, verb: str, *rest: str) -> Sequence[str]:
        return (*AGENT, verb, *rest, "--state", str(self.state))


def stop(agents: Collection[Agent]) -> None:
    """SIGTERM to all, and SIGKILL to those that do not end in time. None outlives this, also when
    somebody who cannot wait interrupts it.
    """
    try:
        for agent in agents:
            agent.ask_to_stop()
        deadline = time.monotonic() + STOP_S
        for agent in agents:
            if agent.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.process.wait(max(deadline - time.monotonic(), 0))
    finally:
        for agent in agents:
            agent.pull_the_plug()
