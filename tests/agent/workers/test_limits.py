"""Control groups: both versions as trees of files, and the real thing where it is permitted."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.workers import limits
from agent.workers.process import Launcher
from protos.nanofleet.v1.job_pb2 import LogLine


def version_one(root: Path) -> None:
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712")


def version_two(root: Path, controllers: str = "cpu memory") -> None:
    (root / "cgroup.controllers").write_text(controllers)
    for folder in (root, root / "nanofleet"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("cpu")


def test_version_one(tmp_path: Path) -> None:
    version_one(tmp_path)
    found = limits.find(tmp_path)
    assert isinstance(found, limits.VersionOne)
    group = found.make("training", 1000)
    folder = tmp_path / "memory" / "nanofleet" / "training"
    assert (folder / "memory.limit_in_bytes").read_text() == "1000"
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.oom_kills() == 3
    group.add(42)
    assert (folder / "cgroup.procs").read_text() == "42"


def test_version_two(tmp_path: Path) -> None:
    version_two(tmp_path)
    found = limits.find(tmp_path)
    assert isinstance(found, limits.VersionTwo)
    assert (tmp_path / "nanofleet" / "cgroup.subtree_control").read_text() == "+memory"
    group = found.make("training", 1000)
    folder = tmp_path / "nanofleet" / "training"
    assert (folder / "memory.max").read_text() == "1000"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n")
    assert group.oom_kills() == 1


def test_all_groups_of_a_board_together_have_its_size(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    version_one(one)
    version_two(two)
    (two / "nanofleet" / "board-7").mkdir()
    (two / "nanofleet" / "board-7" / "cgroup.subtree_control").write_text("")
    for root, below, file in (
        (one, one / "memory/nanofleet/board-7", "memory.limit_in_bytes"),
        (two, two / "nanofleet/board-7", "memory.max"),
    ):
        found = limits.find(root)
        assert not isinstance(found, limits.Absent)
        inner = found.within("board-7", 4000)
        assert (below / file).read_text() == "4000"
        assert inner.make("training", 1000).folder == below / "training"
        assert (below / "training" / file).read_text() == "1000"
    assert (two / "nanofleet/board-7/cgroup.subtree_control").read_text() == "+memory"


def test_a_group_that_does_not_count_counts_nothing(tmp_path: Path) -> None:
    assert limits.Group(tmp_path, "memory.events").oom_kills() == 0


def test_neither(tmp_path: Path) -> None:
    version_two(tmp_path, controllers="cpu io")
    found = limits.find(tmp_path)
    assert found == limits.Absent("this kernel has no memory control groups")


def test_no_permission_is_said(tmp_path: Path) -> None:
    version_one(tmp_path)
    (tmp_path / "memory" / "nanofleet").write_text("a file where the folder should be")
    found = limits.find(tmp_path)
    assert isinstance(found, limits.Absent)
    assert found.why.startswith("no permission for memory control groups")


def test_the_group_that_systemd_delegates(tmp_path: Path) -> None:
    version_two(tmp_path)
    (tmp_path / "nanofleet" / "cgroup.subtree_control").unlink()
    (tmp_path / "nanofleet").rmdir()
    (tmp_path / "nanofleet").write_text("a file where the folder should be")
    own = tmp_path / "system.slice" / "nanofleet-agent.service"
    for folder in (own, own / "nanofleet"):
        folder.mkdir(parents=True)
        (folder / "cgroup.subtree_control").write_text("")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/system.slice/nanofleet-agent.service\n")
    found = limits.find(tmp_path, membership)
    assert found == limits.VersionTwo(own)
    assert (own / "agent" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    assert found.make("training", 1000).folder == own / "nanofleet" / "training"


@pytest.mark.parametrize("said", ["", "0::/\n", "0::/elsewhere\n", "4:memory:/system.slice/x\n"])
def test_no_group_is_delegated(tmp_path: Path, said: str) -> None:
    version_two(tmp_path)
    (tmp_path / "nanofleet" / "cgroup.subtree_control").unlink()
    (tmp_path / "cgroup").write_text(said)
    assert isinstance(limits.find(tmp_path, tmp_path / "cgroup"), limits.Absent)


async def test_the_kernel_enforces_it_and_proves_it(tmp_path: Path) -> None:
    found = limits.find()
    if isinstance(found, limits.Absent):
        pytest.skip(found.why)
    (tmp_path / "workers").mkdir()
    launcher = Launcher(tmp_path / "workers", "boot-1")
    group = found.make(f"test-{os.getpid()}", 64 << 20)
    worker = await launcher.start(
        "tests.agent.workers.echo", LogLine, tmp_path / "log", name="echo", group=group
    )
    await worker.send(LogLine(text="eat"))
    exit = await asyncio.wait_for(worker.wait(), 60)
    assert exit.out_of_memory
    assert not group.folder.exists()
