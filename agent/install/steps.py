"""The kinds of things that are done to a machine, each of which can be printed before it is done.

A step that finds its work done says so and does nothing, so that installing twice changes nothing
and an installation that broke off goes on where it was. A unit that is empty after a power cut
would never start again, so files are written durably.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.install.place import USER, Place
from artifacts import durable
from artifacts.persisting import Point
from protos.errors import NotFound, Refused

# Of folders of the system that are missing.
_OPEN = 0o755


class Step(Protocol):
    """``str(step)`` is the sentence that is printed."""

    def is_done(self) -> bool: ...

    def do(self) -> None: ...


@dataclass(frozen=True, slots=True)
class WriteFile:
    path: Path
    text: str
    mode: int = 0o644
    # People edit it: it is written once, and never again.
    only_once: bool = False

    def __str__(self) -> str:
        return f"write {self.path}"

    def is_done(self) -> bool:
        if self.only_once:
            return self.path.exists()
        return self.path.is_file() and self.path.read_text() == self.text

    def do(self) -> None:
        durable.make_folder(self.path.parent, _OPEN)
        durable.write_bytes(self.path, self.text.encode(), Point.SERVICE_WRITTEN, self.mode)


@dataclass(frozen=True, slots=True)
class MakeFolder:
    path: Path
    mode: int

    def __str__(self) -> str:
        return f"make {self.path}, mode {self.mode:04o}"

    def is_done(self) -> bool:
        return self.path.is_dir() and self.path.stat().st_mode & 0o7777 == self.mode

    def do(self) -> None:
        durable.make_folder(self.path.parent, _OPEN)
        durable.make_folder(self.path, self.mode)
        self.path.chmod(self.mode)


@dataclass(frozen=True, slots=True)
class GiveTo:
    """The folder and all in it to the service's user: a device that joined as root goes on."""

    path: Path
    place: Place

    def __str__(self) -> str:
        return f"give {self.path} to {USER}"

    def is_done(self) -> bool:
        ids = _ids(self.place)
        return ids is not None and all(
            (path.lstat().st_uid, path.lstat().st_gid) == ids for path in _all_in(self.path)
        )

    def do(self) -> None:
        ids = _ids(self.place)
        if ids is None:
            raise NotFound(f"There is no user {USER} to give {self.path} to.", field="user")
        for path in _all_in(self.path):
            os.chown(path, *ids, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Link:
    path: Path
    target: Path

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}: started at boot"

    def is_done(self) -> bool:
        return self.path.is_symlink() and self.path.readlink() == self.target

    def do(self) -> None:
        durable.make_folder(self.path.parent, _OPEN)
        self.path.unlink(missing_ok=True)
        with Point.SERVICE_ENABLED:
            self.path.symlink_to(self.target)
            durable.sync_folder(self.path.parent)


@dataclass(frozen=True, slots=True)
class Remove:
    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"

    def is_done(self) -> bool:
        return not (self.path.exists() or self.path.is_symlink())

    def do(self) -> None:
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


@dataclass(frozen=True, slots=True)
class Run:
    command: tuple[str, ...]
    done: Callable[[], bool]

    def __str__(self) -> str:
        return " ".join(self.command)

    def is_done(self) -> bool:
        return self.done()

    def do(self) -> None:
        try:
            ended = subprocess.run(self.command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise NotFound(
                f"{self.command[0]} is not installed here.",
                fix="On Debian and Ubuntu users are made by the package passwd, services run by"
                " systemd.",
                field="command",
            ) from None
        if ended.returncode:
            said = ended.stderr.strip() or f"exit code {ended.returncode}"
            raise Refused(f"`{self}` failed.", why=f"{said}.")


def _ids(place: Place) -> tuple[int, int] | None:
    if place.is_live:
        try:
            found = pwd.getpwnam(USER)
        except KeyError:
            return None
        return found.pw_uid, found.pw_gid
    for line in place.at(Path("/etc/passwd")).read_text().splitlines():
        name, _, uid, gid = [*line.split(":"), "", "", ""][:4]
        if name == USER:
            return int(uid), int(gid)
    return None


def _all_in(folder: Path) -> Sequence[Path]:
    return [folder, *folder.rglob("*")] if folder.exists() else []
