"""What feeds systemd's watchdog, and what systemd hears: a real socket in the place of its own."""

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.heartbeat import MOST_SILENT_S, Heartbeat
from agent.service_manager import ServiceManager
from tests.agent.daemon import Daemon


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(30)
        yield heard


def manager(heard: socket.socket, watchdog_s: float = 40) -> ServiceManager:
    return ServiceManager(heard.getsockname(), watchdog_s)


async def answers() -> int:
    return 7


async def never() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("silent_s", [None, 0.0, MOST_SILENT_S])
async def test_nothing_hangs(systemd: socket.socket, silent_s: float | None) -> None:
    assert await Heartbeat(manager(systemd), answers, lambda: silent_s).look() == ""


async def test_a_worker_that_hangs_and_was_not_ended(systemd: socket.socket) -> None:
    said = await Heartbeat(manager(systemd), answers, lambda: MOST_SILENT_S + 60).look()
    assert said == "The job's worker hangs for 21 min, and was not ended."


async def test_a_journal_that_cannot_be_read(systemd: socket.socket) -> None:
    said = await Heartbeat(manager(systemd), broken, lambda: None).look()
    assert said == "The journal cannot be read: disk I/O error."


async def test_a_journal_that_hangs_is_not_fed_for(systemd: socket.socket) -> None:
    running = asyncio.create_task(Heartbeat(manager(systemd, 0.004), never, lambda: None).run())
    heard = await asyncio.to_thread(systemd.recv, 4096)
    running.cancel()
    assert heard == b"STATUS=The journal has not answered for 0.001 s."


async def test_beats_come_several_times_in_the_time_that_is_allowed(systemd: socket.socket) -> None:
    running = asyncio.create_task(Heartbeat(manager(systemd, 0.04), answers, lambda: None).run())
    heard = [await asyncio.to_thread(systemd.recv, 4096) for _ in range(3)]
    running.cancel()
    assert heard == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_also_when_it_is_cancelled_as_the_journal_answers(
    systemd: socket.socket, turns: int
) -> None:
    """However many turns of the event loop the answer needs to come through."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def answers() -> None:
        asked.set()
        await answer.wait()

    running = asyncio.create_task(Heartbeat(manager(systemd), answers, lambda: None).run())
    await asked.wait()
    answer.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait((running,), timeout=1)
    assert done
    assert running.cancelled()


async def test_nobody_watches() -> None:
    await Heartbeat(ServiceManager(), never, lambda: None).run()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ServiceManager()),
        ({"NOTIFY_SOCKET": "/run/n"}, ServiceManager("/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000"}, ServiceManager("/run/n", 60.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, ServiceManager("/run/n")),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, ServiceManager("", 60.0)),
        # Inherited by a child of the service: not for this process.
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid() + 1)}, ServiceManager()),
    ],
)
def test_what_systemd_says(environment: dict[str, str], expected: ServiceManager) -> None:
    assert ServiceManager.of(environment) == expected


def abstract(name: str) -> tuple[str, str]:
    return f"@{name}", f"\0{name}"


def test_a_socket_without_a_file() -> None:
    given, bound = abstract(f"nanofleet-test-{os.getpid()}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(bound)
        ServiceManager(given).stopping()
        assert heard.recv(4096) == b"STOPPING=1"
        ServiceManager(given).still_stopping(60)
        assert heard.recv(4096) == b"EXTEND_TIMEOUT_USEC=90000000"


@pytest.mark.parametrize(
    "tell",
    [
        ServiceManager.alive,
        ServiceManager.stopping,
        lambda m: m.ready("x"),
        lambda m: m.still_stopping(1),
    ],
)
def test_a_socket_that_is_gone_changes_nothing(
    tmp_path: Path, tell: Callable[[ServiceManager], None]
) -> None:
    tell(ServiceManager(str(tmp_path / "none")))


def silent(heard: socket.socket) -> bool:
    """What was sent before is taken in first."""
    try:
        while heard.recv(4096):
            pass
    except TimeoutError:
        return True
    return False


def test_the_agent_is_ready_alive_and_stopping(
    daemon: Daemon, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon.start()
    heard = [systemd.recv(4096) for _ in range(3)]
    assert f"READY=1\nSTATUS=listens on port {daemon.port}".encode() in heard
    assert heard.count(b"WATCHDOG=1") == 2
    os.kill(daemon.pid, signal.SIGSTOP)
    systemd.settimeout(0.5)
    assert silent(systemd)
    os.kill(daemon.pid, signal.SIGCONT)
    systemd.settimeout(30)
    daemon.stop()
    said = b""
    while said != b"STOPPING=1":
        said = systemd.recv(4096)
