"""A memory limit for a worker, through the kernel's control groups, where the agent may set one.

JetPack 4 has version 1 of the interface, JetPack 5 and later version 2; both are used through
their files, without a service manager. The group's counter of kills is the proof that a worker
died for lack of memory and not by somebody's hand. Where there is no permission (no root, a
container) there is no limit, and ``find`` says why: the agent goes on without.

A service without root has the group that systemd delegates to it (``Delegate=memory``), and makes
the workers' groups there. Version 2 allows no processes in a group that hands a controller down, so
the agent first moves into a leaf of its own; it never limits itself.

No RLIMIT_AS: it counts mapped weights, which cost no memory.
"""

import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

_NAME = "nanofleet"
_LEAF = "agent"
_OWN = re.compile(r"^0::/(.+)$", re.MULTILINE)


class Limits(Protocol):
    """One version of the interface."""

    def make(self, worker: str, limit_bytes: int) -> "Group":
        """A fresh group for one worker."""
        ...

    def within(self, name: str, limit_bytes: int) -> "Limits":
        """The same, where all groups together have a limit, too. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Absent:
    """Why no worker can be limited here."""

    why: str


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one worker."""

    folder: Path
    kills_file: str

    def add(self, pid: int) -> None:
        """Children that the process makes from here on belong to the group as well."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory."""
        return counter(self.folder / self.kills_file, "oom_kill")

    def close(self) -> None:
        """Removes the group; a process that is still in it keeps it until the next worker."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class VersionTwo:
    root: Path
    below: str = _NAME

    def make(self, worker: str, limit_bytes: int) -> Group:
        group = Group(self.root / self.below / worker, "memory.events")
        group.folder.mkdir(parents=True, exist_ok=True)
        (group.folder / "memory.max").write_text(str(limit_bytes))
        return group

    def within(self, name: str, limit_bytes: int) -> "VersionTwo":
        inner = replace(self, below=f"{self.below}/{name}")
        folder = self.root / inner.below
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(str(limit_bytes))
        _hand_down(folder)
        return inner

    def enter_leaf(self) -> None:
        """Of the group that this process was started in."""
        leaf = self.root / _LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))

    def prepare(self) -> None:
        (self.root / _NAME).mkdir(exist_ok=True)
        for folder in (self.root, self.root / _NAME):
            _hand_down(folder)


@dataclass(frozen=True, slots=True)
class VersionOne:
    root: Path
    below: str = _NAME

    def make(self, worker: str, limit_bytes: int) -> Group:
        group = Group(self.root / "memory" / self.below / worker, "memory.oom_control")
        group.folder.mkdir(parents=True, exist_ok=True)
        (group.folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        return group

    def within(self, name: str, limit_bytes: int) -> "VersionOne":
        inner = replace(self, below=f"{self.below}/{name}")
        folder = self.root / "memory" / inner.below
        folder.mkdir(exist_ok=True)
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        return inner

    def prepare(self) -> None:
        (self.root / "memory" / _NAME).mkdir(exist_ok=True)


def find(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Limits | Absent:
    """The interface that this machine has and lets us use."""
    if (root / "memory" / "memory.limit_in_bytes").exists():
        found: VersionOne | VersionTwo = VersionOne(root)
    elif "memory" in _controllers(root):
        found = VersionTwo(root)
    else:
        return Absent("this kernel has no memory control groups")
    try:
        found.prepare()
    except OSError as error:
        delegated = _delegated(root, membership)
        why = f"no permission for memory control groups ({error.strerror})"
        return delegated or Absent(why)
    return found


def _delegated(root: Path, membership: Path) -> VersionTwo | None:
    """Below the group that this process is in, where that was given to its user."""
    try:
        own = _OWN.search(membership.read_text())
        if own is None or not os.access(root / own[1] / "cgroup.subtree_control", os.W_OK):
            return None
        found = VersionTwo(root / own[1])
        found.enter_leaf()
        found.prepare()
    except OSError:
        return None
    return found


def counter(path: Path, wanted: str) -> int:
    """A value of a file of lines ``key value``; 0 when it is not there."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == wanted:
                return int(value)
    return 0


def _hand_down(folder: Path) -> None:
    """Gives the memory controller to the groups below."""
    control = folder / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")


def _controllers(root: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (root / "cgroup.controllers").read_text().split()
    return []
