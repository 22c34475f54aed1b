"""A disk that remembers what was synced: a small file system in memory, behind /dev/fuse.

Every change is noted in one log, in order, with the syncs between them: powercut.py makes of it
what would be left of the disk if the power went at any moment. The same disk can be full, or
read-only, from any write on. It speaks the kernel's FUSE protocol itself, so it needs root and
/dev/fuse, and no library; the server is a thread, so its users must be other processes.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT_NODE = 1
_MAX_WRITE = 128 << 10
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_BLOCK = 4096
_BIG_WRITES = 1 << 5


@dataclass(slots=True)
class Node:
    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, int] = field(default_factory=dict)
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """A new name, of a new node."""

    parent: int
    name: str
    node: int
    mode: int


@dataclass(frozen=True, slots=True)
class Unlink:
    parent: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    parent: int
    name: str
    new_parent: int
    new_name: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Of a file's bytes, or of a folder's names."""

    node: int


Act = Write | Resize | Link | Unlink | Rename | Sync


class Disk:
    """The file system. ``log`` grows; ``has_failed``: since ``fail_with``, a change has."""

    def __init__(self, size_bytes: int = 1 << 30) -> None:
        self.log: list[Act] = []
        self.changes = 0
        self._size_bytes = size_bytes
        self._nodes = {ROOT_NODE: Node(ROOT_NODE, stat.S_IFDIR | 0o700)}
        self._last = ROOT_NODE
        self._error: int | None = None
        self._left: int | None = None
        self.has_failed = False

    def fail_with(self, error: int, after_changes: int) -> None:
        """From so many more changes on, each one fails with this errno: ENOSPC, EROFS or EIO."""
        self._error, self._left, self.has_failed = error, after_changes, False

    def heal(self) -> None:
        self._error = self._left = None

    def _change(self, *, grows: bool = True) -> None:
        """A full disk still lets go of what it has."""
        self.changes += 1
        if self._error is None or self._left is None:
            return
        if self._left:
            self._left -= 1
        if not self._left and (grows or self._error != errno.ENOSPC):
            self.has_failed = True
            raise OSError(self._error, "")

    # Requests, by their number in the protocol. Each gets the node and the arguments' bytes.

    def lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, _name(body)))

    def getattr(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attr(self._nodes[node])

    def setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        mtime, _, _, mtime_ns, _, mode = struct.unpack_from("<QQIIII", body, 40)
        found = self._nodes[node]
        if valid & 1:
            found.mode = stat.S_IFMT(found.mode) | stat.S_IMODE(mode)
        if valid & 8:
            self._change()
            self._resize(found, size)
            self.log.append(Resize(node, size))
        if valid & 32:
            found.mtime_ns = mtime * 1_000_000_000 + mtime_ns
        return self.getattr(node, b"")

    def mkdir(self, node: int, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        return self._entry(self._link(node, _name(body[8:]), stat.S_IFDIR | (mode & ~umask)))

    def create(self, node: int, body: bytes) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", body)
        made = self._link(node, _name(body[16:]), stat.S_IFREG | stat.S_IMODE(mode & ~umask))
        return self._entry(made) + struct.pack("<QII", 0, 0, 0)

    def unlink(self, node: int, body: bytes) -> bytes:
        self._child(node, _name(body))
        self._change(grows=False)
        del self._nodes[node].children[_name(body)]
        self.log.append(Unlink(node, _name(body)))
        return b""

    def rmdir(self, node: int, body: bytes) -> bytes:
        if self._child(node, _name(body)).children:
            raise OSError(errno.ENOTEMPTY, "")
        return self.unlink(node, body)

    def rename(self, node: int, body: bytes) -> bytes:
        return self._rename(node, struct.unpack_from("<Q", body)[0], body[8:])

    def rename2(self, node: int, body: bytes) -> bytes:
        return self._rename(node, struct.unpack_from("<Q", body)[0], body[16:])

    def open(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(self._nodes[node].data[offset : offset + size])

    def write(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        data, found = body[40 : 40 + size], self._nodes[node]
        self._change()
        if offset > len(found.data):
            self._resize(found, offset)
        found.data[offset : offset + size] = data
        self.log.append(Write(node, offset, data))
        return struct.pack("<II", size, 0)

    def statfs(self, node: int, body: bytes) -> bytes:
        used = sum(len(each.data) for each in self._nodes.values())
        is_full = self.has_failed and self._error == errno.ENOSPC
        free = 0 if is_full else max(0, self._size_bytes - used) // _BLOCK
        blocks = self._size_bytes // _BLOCK
        return struct.pack(
            "<5Q4I6I", blocks, free, free, 1 << 20, 1 << 20, _BLOCK, 255, _BLOCK, 0, *[0] * 6
        )

    def nothing(self, node: int, body: bytes) -> bytes:
        return b""

    def sync(self, node: int, body: bytes) -> bytes:
        if self.has_failed and self._error == errno.EIO:
            raise OSError(errno.EIO, "")
        self.log.append(Sync(node))
        return b""

    def readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        names = [(".", node), ("..", node), *self._nodes[node].children.items()]
        for place, (name, number) in enumerate(names[offset:], start=offset + 1):
            encoded = name.encode()
            kind = stat.S_IFMT(self._nodes[number].mode) >> 12
            entry = struct.pack("<QQII", number, place, len(encoded), kind) + encoded
            entry += b"\0" * (-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def fallocate(self, node: int, body: bytes) -> bytes:
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        self._change()
        found = self._nodes[node]
        if not mode and offset + length > len(found.data):
            self._resize(found, offset + length)
            self.log.append(Resize(node, offset + length))
        return b""

    def _child(self, node: int, name: str) -> Node:
        number = self._nodes[node].children.get(name)
        if number is None:
            raise OSError(errno.ENOENT, "")
        return self._nodes[number]

    def _link(self, parent: int, name: str, mode: int) -> Node:
        if name in self._nodes[parent].children:
            raise OSError(errno.EEXIST, "")
        self._change()
        self._last += 1
        made = self._nodes[self._last] = Node(self._last, mode)
        self._nodes[parent].children[name] = made.number
        self.log.append(Link(parent, name, made.number, mode))
        return made

    def _rename(self, parent: int, new_parent: int, names: bytes) -> bytes:
        name, new_name = (each.decode() for each in names.split(b"\0")[:2])
        moved = self._child(parent, name)
        there = self._nodes[new_parent].children.get(new_name)
        if there is not None and self._nodes[there].children:
            raise OSError(errno.ENOTEMPTY, "")
        self._change(grows=False)
        del self._nodes[parent].children[name]
        self._nodes[new_parent].children[new_name] = moved.number
        self.log.append(Rename(parent, name, new_parent, new_name))
        return b""

    def _resize(self, node: Node, size: int) -> None:
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))

    def _entry(self, node: Node) -> bytes:
        return struct.pack("<QQQQII", node.number, 0, 0, 0, 0, 0) + self._attr(node)

    def _attr(self, node: Node) -> bytes:
        size, seconds = len(node.data), node.mtime_ns // 1_000_000_000
        blocks = -(-size // 512)
        links = 2 if stat.S_ISDIR(node.mode) else 1
        nano = node.mtime_ns % 1_000_000_000
        return _ATTR.pack(node.number, size, blocks, 0, seconds, 0, 0, nano, 0,
                          node.mode, links, 0, 0, 0, _BLOCK, 0)  # fmt: skip


def _name(body: bytes) -> str:
    return body.partition(b"\0")[0].decode()


_REQUESTS: dict[int, Callable[[Disk, int, bytes], bytes]] = {
    1: Disk.lookup, 3: Disk.getattr, 4: Disk.setattr, 9: Disk.mkdir, 10: Disk.unlink,
    11: Disk.rmdir, 12: Disk.rename, 14: Disk.open, 15: Disk.read, 16: Disk.write,
    17: Disk.statfs, 18: Disk.nothing, 20: Disk.sync, 25: Disk.nothing, 27: Disk.open,
    28: Disk.readdir, 29: Disk.nothing, 30: Disk.sync, 35: Disk.create, 43: Disk.fallocate,
    45: Disk.rename2,
}  # fmt: skip
_INIT, _UNANSWERED = 26, (2, 36, 42)


class _Server:
    """Answers the kernel's requests, one after the other, until the disk is unmounted."""

    def __init__(self, disk: Disk, descriptor: int) -> None:
        self._disk, self._descriptor = disk, descriptor
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                request = os.read(self._descriptor, _MAX_WRITE + 8192)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # the request was taken back
                return  # unmounted
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, number, unique, node, *_ = _IN.unpack_from(request)
        body = request[_IN.size :]
        if number in _UNANSWERED:
            return
        code, answer = 0, b""
        if number == _INIT:
            readahead = struct.unpack_from("<III", body)[2]
            answer = struct.pack("<IIIIHHIIHHI7I", 7, 31, readahead, _BIG_WRITES, 12, 9,
                                 _MAX_WRITE, 1, 32, 0, 0, *[0] * 7)  # fmt: skip
        elif number not in _REQUESTS:
            code = -errno.ENOSYS
        else:
            try:
                answer = _REQUESTS[number](self._disk, node, body)
            except OSError as error:
                code = -(error.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # whoever asked was killed meanwhile
            os.write(self._descriptor, _OUT.pack(_OUT.size + len(answer), code, unique) + answer)


@contextmanager
def mounted(folder: Path, size_bytes: int = 1 << 30) -> Iterator[Disk]:
    """A new disk at ``folder`` while the block runs; only root may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/fuse cannot be opened here: {error}")
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"disk", bytes(folder), b"fuse.disk", 0, options.encode()):
        os.close(descriptor)
        pytest.skip("a file system cannot be mounted here")
    disk = Disk(size_bytes)
    server = _Server(disk, descriptor)
    try:
        yield disk
    finally:
        libc.umount2(bytes(folder), 2)
        server.join()
        os.close(descriptor)
