"""Digests: the names of artifacts, ``sha256:`` and 64 hexadecimal digits."""

import hashlib
import re
from pathlib import Path
from typing import NewType

from protos.errors import InvalidRequest

Digest = NewType("Digest", str)

ALGORITHM = "sha256"
_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20


def parse(text: str, field: str = "digest") -> Digest:
    """``text`` as a digest; raises InvalidRequest that names ``field`` when it is none."""
    if _PATTERN.fullmatch(text) is None:
        raise InvalidRequest(
            f"{text!r} is not a digest.",
            why="A digest is sha256: and 64 lower-case hexadecimal digits.",
            field=field,
        )
    return Digest(text)


def of_bytes(data: bytes) -> Digest:
    return Digest(f"{ALGORITHM}:{hashlib.sha256(data).hexdigest()}")


def of_file(path: Path) -> Digest:
    """The digest of a file's content, read in blocks of 1 MiB."""
    running = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            running.update(block)
    return Digest(f"{ALGORITHM}:{running.hexdigest()}")


def hex_of(digest: Digest) -> str:
    """The 64 digits alone."""
    return digest.removeprefix(f"{ALGORITHM}:")


def short(digest: Digest) -> str:
    """Twelve digits, for people."""
    return hex_of(digest)[:12]
