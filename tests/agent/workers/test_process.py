"""Real processes: the pipe, the log, and that nothing is left of a worker that has ended."""

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.workers import orphans
from agent.workers.channel import FrameError
from agent.workers.process import Exit, Launcher, Worker
from protos.errors import WorkerFailed
from protos.nanofleet.v1.job_pb2 import LogLine

MODULE = "tests.agent.workers.echo"


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    records = tmp_path / "workers"
    records.mkdir()
    return Launcher(records, "boot-1")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


async def start(launcher: Launcher, log: Path) -> Worker[LogLine]:
    return await launcher.start(MODULE, LogLine, log, name="echo")


async def answers(worker: Worker[LogLine], *commands: str) -> list[str]:
    for command in commands:
        await worker.send(LogLine(text=command))
    worker.finish()
    return [report.text async for report in worker.reports()]


async def test_a_conversation(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    assert await answers(worker, "hello", "again") == ["hello", "again"]
    exit = await worker.wait()
    assert exit.code == 0
    assert exit.peak_rss_bytes > 1 << 20
    assert not exit.out_of_memory
    assert list(launcher.records.iterdir()) == []


def held() -> tuple[set[str], list[bytes]]:
    """The descriptors of this process, and the commands of its children.

    What earlier tests dropped is collected first, and not between two looks.
    """
    gc.collect()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}, commands


async def test_nothing_is_left_of_a_worker_that_could_not_be_started(
    launcher: Launcher, tmp_path: Path
) -> None:
    before = held()
    with pytest.raises(FileNotFoundError):
        await start(launcher, tmp_path / "no such folder" / "worker.log")
    assert held() == before
    assert list(launcher.records.iterdir()) == []


async def test_a_long_command_and_a_slow_reader(launcher: Launcher, log: Path) -> None:
    long = "x" * (3 << 20)
    worker = await start(launcher, log)
    (answer,) = await answers(worker, long)
    assert answer == long
    await worker.wait()


async def test_what_it_prints_is_its_log(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    await answers(worker, "print")
    exit = await worker.wait()
    assert exit.log_tail == "on stdout\non stderr\n"
    assert await asyncio.to_thread(log.read_text) == exit.log_tail


async def test_it_inherits_nothing_but_its_pipe(launcher: Launcher, log: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        worker = await start(launcher, log)
        (found,) = await answers(worker, "descriptors")
        await worker.wait()
    kinds = json.loads(found)
    assert sorted(map(int, kinds))[:3] == [0, 1, 2]
    assert len(kinds) == 5
    assert not any(kind.startswith("socket") for kind in kinds.values())


async def test_it_leads_its_own_session_and_is_the_first_to_go(
    launcher: Launcher, log: Path
) -> None:
    worker = await start(launcher, log)
    assert os.getsid(worker.pid) == worker.pid
    assert oom_score(worker.pid) == 900
    worker.kill()
    assert (await worker.wait()).code == -signal.SIGKILL


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_a_crash_is_told_with_its_last_words(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    assert await answers(worker, "crash") == []
    exit = await worker.wait()
    assert str(exit) == "exit code 1"
    assert "RuntimeError: as asked" in exit.log_tail


async def test_a_signal_is_told_by_name(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    os.kill(worker.pid, signal.SIGSEGV)
    assert str(await worker.wait()) == "killed by SIGSEGV"
    with pytest.raises(WorkerFailed):
        await worker.send(LogLine(text="anybody there?"))


async def test_its_children_end_with_it(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    await worker.send(LogLine(text="child"))
    child = int((await anext(worker.reports())).text)
    descriptor = os.pidfd_open(child)
    worker.kill()
    await worker.wait()
    await readable(descriptor)


async def test_bytes_that_are_no_message_are_no_frame(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    with pytest.raises(FrameError, match="a frame of 3 bytes is no LogLine"):
        await answers(worker, "babble")
    await worker.wait()


async def test_who_does_not_end_is_ended(launcher: Launcher, log: Path) -> None:
    worker = await start(launcher, log)
    await answers_to_hang(worker)
    assert (await worker.wait(patience_s=0.01)).code == -signal.SIGKILL


async def answers_to_hang(worker: Worker[LogLine]) -> None:
    await worker.send(LogLine(text="hang"))
    assert (await anext(worker.reports())).text == "hanging"
    worker.finish()


async def readable(descriptor: int) -> None:
    """Returns when the process of the descriptor is dead."""
    dead = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, dead.set)
    await dead.wait()
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


def test_an_exit_reads_well() -> None:
    assert str(Exit(-9, 0, True, "")) == "killed by SIGKILL"


@pytest.fixture
def orphan() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, as a worker that lost its agent."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_worker_that_outlived_its_agent_is_swept(
    tmp_path: Path, orphan: subprocess.Popen[bytes]
) -> None:
    orphans.note(tmp_path / "training.json", orphan.pid, "boot-1")
    assert orphans.sweep(tmp_path, "boot-1") == [orphan.pid]
    assert orphan.wait() == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["boot", "start", "garbage"])
def test_a_process_that_only_has_its_number_is_not(
    tmp_path: Path, orphan: subprocess.Popen[bytes], change: str
) -> None:
    record = tmp_path / "training.json"
    orphans.note(record, orphan.pid, "boot-0" if change == "boot" else "boot-1")
    if change == "start":
        facts = json.loads(record.read_text())
        record.write_text(json.dumps({**facts, "started": facts["started"] - 1}))
    if change == "garbage":
        record.write_text(record.read_text()[:-5])
    assert orphans.sweep(tmp_path, "boot-1") == []
    assert orphan.poll() is None
