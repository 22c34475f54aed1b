"""A worker process: started with its pipe, watched, and ended with everything that it started.

    agent ── commands ──▶ worker        two pipes on inherited descriptors (channel.py)
          ◀── reports ───
          ◀── stdout and stderr ──      into a log of bounded size (log.py)

The worker asks the kernel to be killed when the *thread* that started it ends, so it is started
from the main thread, where the event loop runs, and only there. It leads its own session; its
group is killed while its leader is dead but not yet reaped, so that the number of the group cannot
belong to somebody else yet. Nothing but the pipe is inherited: neither the server's sockets nor
gRPC's descriptors.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from async_timeout import timeout
from google.protobuf.message import Message

from agent.workers import channel, orphans
from agent.workers.limits import Group, counter
from agent.workers.log import BoundedLog
from artifacts import headroom
from protos.errors import WorkerFailed

_LOG = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

# The kernel's choice when memory is short: a worker first, the agent last.
_OOM_SCORE = 900
_LOG_BLOCK_BYTES = 16 << 10
# Where `python -m agent.…` finds the very code that runs here.
_CODE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended. ``code`` is negative for a signal."""

    code: int
    peak_rss_bytes: int
    out_of_memory: bool
    log_tail: str

    def __str__(self) -> str:
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        return f"exit code {self.code}"


class Worker(Generic[M]):
    """A running worker whose reports are messages of type ``M``."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        kind: type[M],
        commands: asyncio.StreamWriter,
        reports: asyncio.StreamReader,
        output: asyncio.StreamReader,
        log: BoundedLog,
        group: Group | None,
        record: Path,
    ) -> None:
        self.pid = process.pid
        self._process = process
        self._kind = kind
        self._commands = commands
        self._reports = reports
        self._log = log
        self._group = group
        self._kills_before = _oom_kills(group)
        self._record = record
        name = record.stem
        self._drain = asyncio.create_task(_drain(output, log), name=f"log of {name} {self.pid}")
        self._end = asyncio.create_task(self._ended(), name=f"end of {name} {self.pid}")

    async def send(self, command: Message) -> None:
        """Raises WorkerFailed when the worker is gone."""
        try:
            self._commands.write(channel.encode(command))
            await self._commands.drain()
        except OSError:
            raise WorkerFailed("The worker does not take commands any more.") from None

    async def order(self, command: Message) -> None:
        """As ``send``; a worker that is gone is noticed at the other end of the pipe."""
        try:
            await self.send(command)
        except WorkerFailed as error:
            _LOG.info("worker %d: %s", self.pid, error)

    def reports(self) -> AsyncIterator[M]:
        """What it reports, until it closes its end of the pipe or dies."""
        return channel.read_frames(self._reports, self._kind)

    def finish(self) -> None:
        """Closes the pipe of commands: a worker that waits for one ends."""
        self._commands.close()

    def kill(self) -> None:
        """Ends it and its children now. It is fine when it has ended."""
        if not self._end.done() and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self, patience_s: float | None = None) -> Exit:
        """How it ended; kills it when it has not by itself after ``patience_s``."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with timeout(patience_s):
                return await asyncio.shield(self._end)
        self.kill()
        return await self._end

    async def _ended(self) -> Exit:
        await _death(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code, peak_rss_bytes = _reap(self._process)
        await self._drain
        self._commands.close()
        kills = _oom_kills(self._group)
        if self._group:
            self._group.close()
        self._log.close()
        _forget(self._record)
        return Exit(
            code=code,
            peak_rss_bytes=peak_rss_bytes,
            out_of_memory=code == -signal.SIGKILL and kills > self._kills_before,
            log_tail=self._log.tail(),
        )


@dataclass(frozen=True, slots=True)
class Launcher:
    """What all workers of an agent share."""

    records: Path  # a folder with one file for each living worker, for the sweep
    boot_id: str

    async def start(
        self,
        module: str,
        kind: type[M],
        log: Path,
        *,
        name: str,
        group: Group | None = None,
    ) -> Worker[M]:
        """Runs ``python -m module`` as the worker called ``name``."""
        assert threading.current_thread() is threading.main_thread(), "see the module's docstring"
        commands_read, commands_write = os.pipe()
        reports_read, reports_write = os.pipe()
        output_read, output_write = os.pipe()
        try:
            process = _spawn(module, commands_read, reports_write, output_write)
        finally:
            for descriptor in (commands_read, reports_write, output_write):
                os.close(descriptor)
        ours = [commands_write, reports_read, output_read]
        record = self.records / f"{name}.json"
        try:
            _make_expendable(process.pid)
            if group is not None:
                group.add(process.pid)
            with headroom.naming_disk_faults(self.records):
                orphans.note(record, process.pid, self.boot_id)
                bounded = BoundedLog(log)
            return Worker(
                process,
                kind,
                await _writer(ours.pop(0)),
                await _reader(ours.pop(0)),
                await _reader(ours.pop(0)),
                bounded,
                group,
                record,
            )
        except BaseException:
            # Nobody would ever end it: it waits for its first command.
            os.killpg(process.pid, signal.SIGKILL)
            _reap(process)
            _forget(record)
            for descriptor in ours:
                os.close(descriptor)
            raise


def _forget(record: Path) -> None:
    """A record that a broken disk does not let go of is swept at the next start of the agent."""
    with contextlib.suppress(OSError):
        record.unlink(missing_ok=True)


def _spawn(module: str, commands: int, reports: int, output: int) -> subprocess.Popen[bytes]:
    pipe = f"--commands {commands} --reports {reports} --parent {os.getpid()}"
    return subprocess.Popen(
        [sys.executable, "-m", module, *pipe.split()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(commands, reports),
        start_new_session=True,
        cwd=_CODE,
    )


def _reap(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The exit code and the peak of the resident memory of a dead child."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


def _oom_kills(group: Group | None) -> int:
    """Of the worker's control group; without one, of the machine (0: the kernel does not count)."""
    return group.oom_kills() if group else counter(Path("/proc/vmstat"), "oom_kill")


def _make_expendable(pid: int) -> None:
    """Raising the claim to be killed first needs no permission."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_OOM_SCORE))


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "wb", buffering=0)
    )
    return asyncio.StreamWriter(transport, protocol, reader, loop)


async def _drain(output: asyncio.StreamReader, log: BoundedLog) -> None:
    while block := await output.read(_LOG_BLOCK_BYTES):
        log.write(block)


async def _death(pid: int) -> None:
    """Returns when the child is dead and not yet reaped."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # kernels before 5.3: JetPack 4
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    dead = asyncio.Event()
    loop.add_reader(descriptor, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
