"""An adapter as one artifact: PEFT's two files, the same weights as GGUF LoRA, and the manifest.

Four files travel and are judged together, so they are one tar; uncompressed, because weights do not
compress and so that the same files always give the same bytes and the same digest. Tar archives are
how links, absolute paths and devices get onto a disk. Instead of listing what is forbidden,
``unpack`` demands the one form that ``pack`` writes: each header has to be, byte for byte, the one
that ``pack`` would have written for this name and size. Any ``tar`` can read the archive.
"""

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from artifacts import durable, headroom, regular_file
from artifacts.manifest import AdapterManifest
from artifacts.persisting import Point
from protos.errors import AlreadyExists, InvalidRequest

__all__ = ["AdapterManifest", "pack", "read_manifest", "unpack"]

GGUF = "adapter.gguf"
CONFIG = "adapter_config.json"
SAFETENSORS = "adapter_model.safetensors"
MANIFEST = "nanofleet.json"

_MAX_JSON_BYTES = 1 << 20
_MAX_WEIGHTS_BYTES = 2 << 30
# In the order of the archive, with the size that is still believed.
_LIMITS = {
    GGUF: _MAX_WEIGHTS_BYTES,
    CONFIG: _MAX_JSON_BYTES,
    SAFETENSORS: _MAX_WEIGHTS_BYTES,
    MANIFEST: _MAX_JSON_BYTES,
}
_END = bytes(2 * tarfile.BLOCKSIZE)
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    size_bytes: int


def pack(folder: Path, target: Path) -> None:
    """Writes the four files of ``folder`` to the archive ``target``, durably.

    Other files in the folder stay out. Raises InvalidRequest when one of the four is missing or
    is not what its name says.
    """
    with (
        headroom.naming_disk_faults(target.parent),
        durable.replacing(target, Point.ADAPTER_PACKED) as archive,
    ):
        for name in _LIMITS:
            with regular_file.open_to_read(folder / name) as source:
                size_bytes = os.fstat(source.fileno()).st_size
                _check_size(name, size_bytes)
                _check_content(name, source, size_bytes)
                archive.write(_header(name, size_bytes))
                _copy(source, archive, size_bytes)
                archive.write(bytes(_padding(size_bytes)))
        archive.write(_END)


def unpack(path: Path, folder: Path) -> None:
    """Writes the four files of the archive into the new folder ``folder``.

    The folder appears whole or not at all, also when the power is cut. Raises AlreadyExists when
    there is one that is not empty, and InvalidRequest when the archive is not as ``pack`` makes it.
    A kill in the middle leaves a folder beside it whose name starts with a dot.
    """
    with regular_file.open_to_read(path) as archive:
        members = _members(archive, path)
        durable.make_folder(folder.parent)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            with headroom.naming_disk_faults(folder.parent):
                for member in members.values():
                    archive.seek(member.offset)
                    _check_content(member.name, archive, member.size_bytes)
                    _write_member(archive, member, fresh)
                with Point.ADAPTER_UNPACKED:
                    durable.sync_folder(fresh)
                _give_name(fresh, folder)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def read_manifest(path: Path) -> AdapterManifest:
    """The manifest of the archive ``path``; nothing is unpacked."""
    with regular_file.open_to_read(path) as archive:
        member = _members(archive, path)[MANIFEST]
        archive.seek(member.offset)
        return AdapterManifest.from_json(archive.read(member.size_bytes))


def _members(archive: BinaryIO, path: Path) -> Mapping[str, _Member]:
    """The four members, after a look at every header and at the end of the archive."""
    members = {}
    offset = 0
    for name, limit in _LIMITS.items():
        archive.seek(offset)
        header = archive.read(tarfile.BLOCKSIZE)
        size_bytes = _claimed_size(header)
        if size_bytes > limit or header != _header(name, size_bytes):
            raise _unusable(path, f"At byte {offset} there should be the plain file {name}.")
        members[name] = _Member(name, offset + tarfile.BLOCKSIZE, size_bytes)
        offset += tarfile.BLOCKSIZE + size_bytes + _padding(size_bytes)
    archive.seek(offset)
    if archive.read(len(_END) + 1) != _END:
        raise _unusable(path, f"It should end at byte {offset + len(_END)}.")
    return members


def _header(name: str, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def _claimed_size(header: bytes) -> int:
    """The size field (octal digits at 124), or 0: then the comparison of the headers fails."""
    digits = header[124:135]
    return int(digits, 8) if len(digits) == 11 and digits.isdigit() and max(digits) < 56 else 0


def _padding(size_bytes: int) -> int:
    return -size_bytes % tarfile.BLOCKSIZE


def _check_size(name: str, size_bytes: int) -> None:
    if size_bytes > _LIMITS[name]:
        raise InvalidRequest(
            f"{name} is too large for an adapter: {headroom.readable(size_bytes)}.",
            why=f"The limit is {headroom.readable(_LIMITS[name])}.",
            fix="Choose a smaller rank or fewer targets.",
        )


def _check_content(name: str, file: BinaryIO, size_bytes: int) -> None:
    """Looks whether the content is what the name says, and leaves the position as it was."""
    start = file.tell()
    head = file.read(min(size_bytes, _MAX_JSON_BYTES))
    file.seek(start)
    if name == MANIFEST:
        AdapterManifest.from_json(head)
    elif name == CONFIG and not _is_json_object(head):
        raise _wrong_content(name, "It is not a JSON object.")
    elif name == GGUF and not head.startswith(b"GGUF"):
        raise _wrong_content(name, "It is not a GGUF file.")
    elif name == SAFETENSORS and not _is_safetensors(head, size_bytes):
        raise _wrong_content(name, "It is not a safetensors file; pickles are never loaded.")


def _is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def _is_safetensors(head: bytes, size_bytes: int) -> bool:
    """Eight bytes of length, then a JSON object of that length, then the data."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and length + 8 <= size_bytes and head[8:9] == b"{"


def _write_member(archive: BinaryIO, member: _Member, folder: Path) -> None:
    with durable.replacing(folder / member.name, Point.ADAPTER_PART, mode=0o644) as file:
        _copy(archive, file, member.size_bytes)


def _copy(source: BinaryIO, target: BinaryIO, size_bytes: int) -> None:
    left = size_bytes
    while left:
        block = source.read(min(left, _COPY_BYTES))
        if not block:
            raise InvalidRequest("An adapter file became shorter while it was read.")
        target.write(block)
        left -= len(block)


def _give_name(fresh: Path, folder: Path) -> None:
    try:
        durable.publish(fresh, folder, Point.ADAPTER_UNPACKED)
    except OSError as error:
        if not folder.exists():
            raise
        raise AlreadyExists(
            f"The folder {folder} exists and is not empty.", fix="Name a new folder."
        ) from error


def _unusable(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is not an adapter that can be used.",
        why=why,
        fix="Use an adapter as nanofleet packed it.",
        reason="INVALID_ADAPTER",
    )


def _wrong_content(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The {name} of the adapter cannot be used.", why=why, reason="INVALID_ADAPTER"
    )
