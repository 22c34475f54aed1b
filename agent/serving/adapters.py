"""Adapters made ready for the engine: unpacked once, kept while they are used.

The store holds an adapter as one archive; an engine reads one file of it, or two. The unpacked copy
is no artifact: it can be made again at any time, so only the newest few stay on the disk.

An adapter serves on the base that it was made for, and on other files of the same model: one that
was trained on qint8, which llama.cpp does not know, answers on the q8_0 of the same weights.
"""

import asyncio
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from artifacts import adapter as archives
from artifacts import base_model, requested
from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.manifest import AdapterManifest, check_sibling
from artifacts.store import ArtifactStore
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_ADAPTER, ARTIFACT_KIND_BASE_MODEL
from protos.nanofleet.v1.inference_pb2 import AdapterSummary

_LOG = logging.getLogger(__name__)

_MOST_UNPACKED = 16


@dataclass(frozen=True, slots=True)
class FittingAdapter:
    """``path``: the engine's file; ``trained_base``: what it was trained on, in whatever type."""

    path: Path
    trained_base: Digest


class Adapters:
    """``folder`` is emptied: nothing that was left there by a crash is trusted. ``file``: which of
    an adapter's files the engine is told."""

    def __init__(self, store: ArtifactStore, folder: Path, file: str = archives.GGUF) -> None:
        self._store = store
        self._folder = folder
        self._file = file
        self._lock = asyncio.Lock()
        self._used: dict[Digest, Path] = {}  # the longest unused first
        # Adapters with bases of the same source: neither changes, and reading a header takes 0.1 s.
        self._siblings: set[tuple[Digest, Digest]] = set()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    async def fitting(self, digest: Digest, base: Digest) -> FittingAdapter:
        """The adapter, ready for ``base``. Raises WrongBase when it was made for another model."""
        async with self._lock:
            return await asyncio.to_thread(self._fitting, digest, base)

    def summaries(self, loaded: frozenset[str]) -> list[AdapterSummary]:
        """The adapters of the store, by name. Blocking."""
        found = []
        for stored in self._store.list(ARTIFACT_KIND_ADAPTER):
            try:
                manifest = archives.read_manifest(self._store.path(stored.digest))
            except (NotFound, FileNotFoundError):
                continue  # deleted since it was listed
            except InvalidRequest as error:
                # Whatever was sent as an adapter must not hide those that are.
                _LOG.warning("%s is no adapter: %s", digests.short(stored.digest), error)
                continue
            found.append(
                AdapterSummary(
                    digest=stored.digest,
                    name=manifest.name,
                    base_digest=manifest.base_digest,
                    rank=manifest.rank,
                    final_loss=manifest.training.final_loss if manifest.training else None,
                    loaded=stored.digest in loaded,
                )
            )
        return sorted(found, key=lambda summary: (summary.name, summary.digest))

    def _fitting(self, digest: Digest, base: Digest) -> FittingAdapter:
        archive = requested.find(self._store, digest, ARTIFACT_KIND_ADAPTER, "adapter_digest")
        manifest = archives.read_manifest(archive)
        if manifest.base_digest != base and (digest, base) not in self._siblings:
            self._check_sibling(manifest, base)
            self._siblings.add((digest, base))
        folder = self._used.pop(digest, None) or self._unpacked(archive, digest)
        self._used[digest] = folder
        self._store.touch(digest)
        while len(self._used) > _MOST_UNPACKED:
            shutil.rmtree(self._used.pop(next(iter(self._used))), ignore_errors=True)
        return FittingAdapter(folder / self._file, manifest.base_digest)

    def _check_sibling(self, manifest: AdapterManifest, base: Digest) -> None:
        path = requested.find(self._store, base, ARTIFACT_KIND_BASE_MODEL, "base_digest")
        check_sibling(manifest, base, base_model.read(path))

    def _unpacked(self, archive: Path, digest: Digest) -> Path:
        folder = self._folder / digests.hex_of(digest)
        archives.unpack(archive, folder)
        return folder
