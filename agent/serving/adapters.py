"""Adapters made ready for the engine: unpacked once, kept while they are used.

The store holds an adapter as one archive; an engine reads one file of it, or two. The unpacked copy
is no artifact: it can be made again at any time, so only the newest few stay on the disk.
"""

import asyncio
import logging
import shutil
from pathlib import Path

from artifacts import adapter as archives
from artifacts import digest as digests
from artifacts import requested
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_ADAPTER
from protos.nanofleet.v1.inference_pb2 import AdapterSummary

_LOG = logging.getLogger(__name__)

_MOST_UNPACKED = 16


class Adapters:
    """``folder`` is emptied: nothing that was left there by a crash is trusted. ``file``: which of
    an adapter's files the engine is told."""

    def __init__(self, store: ArtifactStore, folder: Path, file: str = archives.GGUF) -> None:
        self._store = store
        self._folder = folder
        self._file = file
        self._lock = asyncio.Lock()
        self._used: dict[Digest, Path] = {}  # the longest unused first
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    async def path(self, digest: Digest, base: Digest) -> Path:
        """The engine's file of the adapter. Raises WrongBase when it was made for another model."""
        async with self._lock:
            return await asyncio.to_thread(self._path, digest, base)

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
                    final_loss=manifest.final_loss,
                    loaded=stored.digest in loaded,
                )
            )
        return sorted(found, key=lambda summary: (summary.name, summary.digest))

    def _path(self, digest: Digest, base: Digest) -> Path:
        archive = requested.find(self._store, digest, ARTIFACT_KIND_ADAPTER, "adapter_digest")
        archives.check_base(archives.read_manifest(archive), base)
        folder = self._used.pop(digest, None) or self._unpacked(archive, digest)
        self._used[digest] = folder
        self._store.touch(digest)
        while len(self._used) > _MOST_UNPACKED:
            shutil.rmtree(self._used.pop(next(iter(self._used))), ignore_errors=True)
        return folder / self._file

    def _unpacked(self, archive: Path, digest: Digest) -> Path:
        folder = self._folder / digests.hex_of(digest)
        archives.unpack(archive, folder)
        return folder
