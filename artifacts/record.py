"""The record of a stored artifact: the small JSON file beside its bytes.

Size, kind and pins cannot be read from the bytes, and listing a store must not hash gigabytes, so
they are written down when the bytes are verified. A record is replaced whole and durably. One that
cannot be read counts as absent, and so does its artifact: the next upload makes both whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from artifacts import durable
from artifacts.digest import Digest
from artifacts.persisting import Point
from protos.nanofleet.v1 import artifact_pb2

Kind: TypeAlias = artifact_pb2.ArtifactKind.ValueType

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What a store knows of an artifact; ``pins`` says who needs it, sorted."""

    digest: Digest
    size_bytes: int
    kind: Kind
    pins: tuple[str, ...] = ()


def write(path: Path, artifact: StoredArtifact) -> None:
    content = {
        "format_version": FORMAT_VERSION,
        "size_bytes": artifact.size_bytes,
        "kind": int(artifact.kind),
        "pins": list(artifact.pins),
    }
    line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    durable.write_bytes(path, line, Point.STORE_RECORD)


def read(path: Path, digest: Digest) -> StoredArtifact | None:
    """The record in ``path``; None when there is none, or none that can be trusted."""
    try:
        content = json.loads(path.read_bytes())
        if content["format_version"] != FORMAT_VERSION:
            return None
        return StoredArtifact(
            digest=digest,
            size_bytes=int(content["size_bytes"]),
            kind=Kind(int(content["kind"])),
            pins=tuple(str(pin) for pin in content["pins"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
