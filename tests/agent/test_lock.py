"""The lock of a state folder, and those who only ask for it."""

import threading
from pathlib import Path

import pytest

from agent.lock import FILE, StateLock, holder
from protos.errors import InternalError, InUse, Unreachable


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with pytest.raises(InUse, match="already"):
        StateLock(tmp_path)
    lock.close()
    StateLock(tmp_path).close()


def test_who_holds_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="No agent is running"):
        holder(tmp_path)
    lock = StateLock(tmp_path)
    with pytest.raises(Unreachable, match="is starting"):
        holder(tmp_path)
    lock.tell("127.0.0.1:7000")
    assert holder(tmp_path).address == "127.0.0.1:7000"
    lock.close()


def test_asking_never_keeps_an_agent_from_starting(tmp_path: Path) -> None:
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            with pytest.raises(Unreachable):
                holder(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(200):
            StateLock(tmp_path).close()
    finally:
        done.set()
        asking.join()


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(InternalError, match="cannot be written: Is a directory"):
        StateLock(tmp_path)
