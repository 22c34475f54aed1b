"""The artifact that a request to a device names: it must be there, and of the kind that is meant.

Jobs, models and adapters are asked for by digest, each in a field of its request; a wrong digest is
told in one way, with the field, wherever it was sent.
"""

from collections.abc import Mapping
from pathlib import Path

from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.record import Kind
from artifacts.store import ArtifactStore
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1.artifact_pb2 import (
    ARTIFACT_KIND_ADAPTER,
    ARTIFACT_KIND_BASE_MODEL,
    ARTIFACT_KIND_CHECKPOINT,
    ARTIFACT_KIND_DATASET,
    ARTIFACT_KIND_UNSPECIFIED,
)

_WORDS: Mapping[Kind, str] = {
    ARTIFACT_KIND_UNSPECIFIED: "an artifact",
    ARTIFACT_KIND_BASE_MODEL: "a base model",
    ARTIFACT_KIND_DATASET: "a dataset",
    ARTIFACT_KIND_ADAPTER: "an adapter",
    ARTIFACT_KIND_CHECKPOINT: "a checkpoint",
}


def find(store: ArtifactStore, digest: Digest, kind: Kind, field: str) -> Path:
    """Where the bytes lie. Raises NotFound or InvalidRequest, with ``field``. Blocking."""
    stored = store.stat(digest)
    if stored is None:
        _, _, word = _WORDS[kind].partition(" ")
        raise NotFound(
            f"The {word} {digests.short(digest)} is not on this device.",
            fix="Push it to the device first, then try again.",
            field=field,
        )
    if stored.kind != kind:
        raise InvalidRequest(
            f"{digests.short(digest)} is {_WORDS[stored.kind]}, not {_WORDS[kind]}.", field=field
        )
    return store.path(digest)
