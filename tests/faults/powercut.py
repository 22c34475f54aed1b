"""What is left of a disk when the power goes: from its log (disk.py), at any moment of it.

What was synced is there. Of the rest anything may be: the bytes of a file in any order, page by
page; the names in the order of their making, as file systems journal them, up to some moment. So
each moment has three disks here:

    NONE      nothing that was not synced
    ALL       everything, as after a kill
    SOME      pages and names drawn from a seed

A name is synced with its folder; a file's bytes with the file, whatever its name. A rename between
folders is one act, and lasts with either of them.
"""

import enum
import random
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.disk import ROOT_NODE, Act, Link, Rename, Resize, Sync, Unlink, Write

_PAGE = 4096
# Written by those who use the disk: what they were promised. It is no part of what is left.
PROMISES = "promises"


class Left(enum.Enum):
    NONE = "none"
    SOME = "some"
    ALL = "all"


@dataclass(slots=True)
class _Tree:
    """Names and bytes, as acts make them."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT_NODE: {}})
    modes: dict[int, int] = field(default_factory=dict)
    files: dict[int, bytearray] = field(default_factory=dict)

    def name(self, act: Link | Unlink | Rename) -> None:
        folder = self.names.setdefault(act.parent, {})
        if isinstance(act, Link):
            folder[act.name] = act.node
            self.modes[act.node] = act.mode
            return
        node = folder.pop(act.name, None)
        if isinstance(act, Rename) and node is not None:
            self.names.setdefault(act.new_parent, {})[act.new_name] = node

    def fill(self, act: Write | Resize) -> None:
        data = self.files.setdefault(act.node, bytearray())
        size = act.size if isinstance(act, Resize) else max(len(data), act.offset + len(act.data))
        del data[size:]
        data.extend(bytes(size - len(data)))
        if isinstance(act, Write):
            data[act.offset : act.offset + len(act.data)] = act.data

    def write_to(self, folder: Path, node: int = ROOT_NODE) -> None:
        folder.mkdir()
        for name, child in self.names.get(node, {}).items():
            if stat.S_ISDIR(self.modes[child]):
                self.write_to(folder / name, child)
            elif name != PROMISES:
                (folder / name).write_bytes(self.files.get(child, b""))


def moments(log: Sequence[Act]) -> list[int]:
    """Right before and right after each sync: between two of them nothing new is certain."""
    syncs = [place for place, act in enumerate(log) if isinstance(act, Sync)]
    return sorted({*syncs, *(place + 1 for place in syncs), len(log)})


def leave(log: Sequence[Act], moment: int, left: Left, seed: int, folder: Path) -> None:
    """Makes ``folder`` what the disk is after a power cut at the moment."""
    acts, drawn = log[:moment], random.Random(f"{seed} {moment}")
    tree = _Tree()
    for act in _names_left(acts, left, drawn):
        tree.name(act)
    for node, changes in _changes(acts).items():
        for change in _bytes_left(changes, left, drawn):
            tree.fill(change)
        tree.files.setdefault(node, bytearray())
    tree.write_to(folder)


def promises(log: Sequence[Act], moment: int) -> list[str]:
    """What had been promised until then."""
    nodes = [act.node for act in log if isinstance(act, Link) and act.name == PROMISES]
    said = [act.data for act in log[:moment] if isinstance(act, Write) and act.node in nodes]
    return b"".join(said).decode().splitlines()


def _names_left(
    acts: Sequence[Act], left: Left, drawn: random.Random
) -> Iterable[Link | Unlink | Rename]:
    made = [(at, act) for at, act in enumerate(acts) if isinstance(act, Link | Unlink | Rename)]
    synced: dict[int, int] = {act.node: at for at, act in enumerate(acts) if isinstance(act, Sync)}

    def is_synced(at: int, act: Link | Unlink | Rename) -> bool:
        folders = [act.parent, *([act.new_parent] if isinstance(act, Rename) else [])]
        return any(synced.get(folder, -1) > at for folder in folders)

    unsynced = [at for at, act in made if not is_synced(at, act)]
    kept = {Left.NONE: 0, Left.ALL: len(unsynced)}.get(left, drawn.randint(0, len(unsynced)))
    lost = set(unsynced[kept:])
    return [act for at, act in made if at not in lost]


def _changes(acts: Sequence[Act]) -> Mapping[int, list[Write | Resize | Sync]]:
    found: dict[int, list[Write | Resize | Sync]] = {}
    for act in acts:
        if isinstance(act, Write | Resize | Sync):
            found.setdefault(act.node, []).append(act)
    return found


def _bytes_left(
    changes: Sequence[Write | Resize | Sync], left: Left, drawn: random.Random
) -> Iterable[Write | Resize]:
    last = max((at for at, act in enumerate(changes) if isinstance(act, Sync)), default=-1)
    for at, act in enumerate(changes):
        if isinstance(act, Sync):
            continue
        if at < last or left is Left.ALL:
            yield act
        elif left is Left.SOME:
            yield from _pages_left(act, drawn)


def _pages_left(act: Write | Resize, drawn: random.Random) -> Iterable[Write | Resize]:
    if isinstance(act, Resize):
        if drawn.random() < 0.5:
            yield act
        return
    at = 0
    while at < len(act.data):
        end = min(len(act.data), at + _PAGE - (act.offset + at) % _PAGE)
        if drawn.random() < 0.5:
            yield Write(act.node, act.offset + at, act.data[at:end])
        at = end
