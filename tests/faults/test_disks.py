"""Disks that are full, or read-only, or broken, from any write on, for a while: nothing is lost."""

import errno
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults import oracle
from tests.faults.disk import Disk, mounted
from tests.faults.lab import Lab
from tests.faults.oracle import Outcome

# How long it stays so after the first write that fails.
_FAILS_S = 1.0
# An agent that does nothing writes its telemetry more often.
_WRITES_S = 60
SHORT, LONG = 1, 12
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "broken": errno.EIO}


class Fallible:
    """A lab whose device has its state on a disk that can be told to fail."""

    def __init__(self, lab: Lab, disk: Disk) -> None:
        self.lab, self.disk = lab, disk


@pytest.fixture
def fallible(born: Lab, tmp_path: Path) -> Iterator[Fallible]:
    lab = born.copy(tmp_path / "lab")
    with mounted(tmp_path / "disk") as disk:
        state = tmp_path / "disk" / "state"
        lab.device.move_to(state)
        yield Fallible(lab, disk)
        lab.device.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def changes(born: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """What each story changes on its device's disk, from the start of the agent on."""

    def counted(story: str) -> int:
        folder = tmp_path_factory.mktemp(f"calm-{story}")
        lab = born.copy(folder / "lab")
        with mounted(folder / "disk") as disk:
            lab.device.move_to(folder / "disk" / "state")
            before = disk.changes
            lab.device.start()
            lab.play(story)
            lab.device.stop()
            return disk.changes - before

    return {story: counted(story) for story in ("life", "trip")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "share" in metafunc.fixturenames:
        parts = LONG if metafunc.config.getoption("faults") == "all" else SHORT
        metafunc.parametrize("share", [(part + 0.5) / parts for part in range(parts)])


@pytest.mark.parametrize("how", ERRORS)
def test_the_disk_fails_from_some_write_on(
    fallible: Fallible, expected: Outcome, changes: Mapping[str, int], share: float, how: str
) -> None:
    """``share`` of a job's writes have been done by then."""
    play(fallible, "life", ERRORS[how], int(changes["life"] * share))
    oracle.check_job(fallible.lab, "persona", expected)


@pytest.mark.parametrize("how", ERRORS)
def test_the_disk_fails_while_an_artifact_comes_and_goes(
    fallible: Fallible, changes: Mapping[str, int], share: float, how: str
) -> None:
    play(fallible, "trip", ERRORS[how], int(changes["trip"] * share))


def play(fallible: Fallible, story: str, error: int, after_changes: int) -> None:
    lab, disk = fallible.lab, fallible.disk
    lab.device.may_fail, lab.device.most_starts = True, 100
    disk.fail_with(error, after_changes)
    lab.device.start()
    with healing(disk):
        lab.play(story)
        if not disk.has_failed:
            # Checkpoints and telemetry go by the clock: this run was faster than the counted one.
            disk.fail_with(error, 0)
    lab.device.stop()
    oracle.check_stores(lab)
    said = lab.device.log.read_text()
    assert "Traceback" not in said, said


@contextmanager
def healing(disk: Disk) -> Iterator[None]:
    """It works again some time after it began to fail."""

    def heal() -> None:
        while not disk.has_failed:
            time.sleep(0.02)
        time.sleep(_FAILS_S)
        disk.heal()

    thread = threading.Thread(target=heal, name="healing", daemon=True)
    thread.start()
    yield
    thread.join(_WRITES_S)
    assert not thread.is_alive(), "nobody wrote to the disk: it never failed"
