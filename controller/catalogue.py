"""The fleet's own artifacts, and their names.

The bytes lie in an artifact store like a device's; names, within a kind, in the database. A name
moves when it is given to other bytes, as a branch does; the digest never does.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from artifacts import dataset
from artifacts.digest import Digest
from artifacts.persisting import Point
from artifacts.record import Kind, StoredArtifact
from artifacts.store import ArtifactStore
from controller import adapters, details, importing, references, scratch
from controller.records import CatalogueEntry, ImportProgress
from controller.retry import TURNS
from controller.store import Store, jobs, names
from controller.transfer import Parcel
from protos.errors import AlreadyExists, Busy, NotFound, OffsetMismatch
from protos.nanofleet.v1 import artifact_pb2

DATASET = artifact_pb2.ARTIFACT_KIND_DATASET
BASE_MODEL = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
ADAPTER = artifact_pb2.ARTIFACT_KIND_ADAPTER

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NOTHING: Mapping[str, object] = MappingProxyType({})


class Catalogue:
    """``scratch_folder`` is on the store's disk: the system's temporary one may be memory."""

    def __init__(
        self,
        store: Store,
        artifacts: ArtifactStore,
        scratch_folder: Path,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self.artifacts = artifacts
        self._scratch = scratch_folder
        self._utc_ns = utc_ns

    async def import_model(
        self,
        source: Path,
        name: str,
        file_type: str,
        on_progress: Callable[[ImportProgress], None] | None,
    ) -> CatalogueEntry:
        """A .gguf file as it is, or a Hugging Face folder, converted in a process of its own."""
        chosen = _name(name, source)
        if not source.is_dir():  # noqa: ASYNC240 (one stat)
            return await self.add(source, BASE_MODEL, chosen)
        with scratch.folder(self._scratch) as folder:
            target = folder / "model.gguf"
            told = await importing.convert(source, target, file_type, on_progress)
            return await self.add(target, BASE_MODEL, chosen, told)

    async def import_adapter(self, folder: Path, base: str, name: str) -> CatalogueEntry:
        """A PEFT folder, for a base model of the catalogue. AlreadyExists for the name of a job's
        result; that of an earlier import moves."""
        chosen, model = _name(name, folder), self.resolve(base, BASE_MODEL)
        self._check_no_result(chosen)
        with scratch.folder(self._scratch) as made:
            path = self.artifacts.path(Digest(model.digest))
            archive, warnings = await adapters.pack(folder, model, path, chosen, made)
            return await self.add(archive, ADAPTER, chosen, {"warnings": warnings})

    async def add(
        self,
        source: Path,
        kind: Kind,
        name: str,
        told: Mapping[str, object] = _NOTHING,
        *,
        as_prompts: bool = False,
    ) -> CatalogueEntry:
        """A file; what is wrong with it raises what its format's reader says of it. ``told`` is
        what its maker says of it, for the details.

        A dataset is checked line by line and stored as zstd; the lines of one that is read
        ``as_prompts`` need no answers. While another process adds the same bytes, its end is
        waited for.
        """
        chosen = _name(name, source)

        async def once() -> CatalogueEntry:
            try:
                return await asyncio.to_thread(self._add, source, kind, chosen, told, as_prompts)
            except OffsetMismatch as error:
                raise Busy(error.what, why="Another process adds the same bytes.") from error

        return await TURNS.call(once)

    def adopt(self, artifact: StoredArtifact, name: str) -> CatalogueEntry:
        """Names an artifact whose bytes are in the store already."""
        known = details.read(self.artifacts.path(artifact.digest), artifact.kind)
        return self._record(artifact, known, references.checked_name(name))

    def entries(self, kind: Kind | None) -> list[CatalogueEntry]:
        with self._store.read() as transaction:
            return names.every(transaction, kind)

    def resolve(self, reference: str, kind: Kind | None) -> CatalogueEntry:
        """Raises NotFound with near names, or InvalidRequest when several are meant."""
        return references.resolve(reference, kind, self.entries(None))

    def parcel(self, entry: CatalogueEntry) -> Parcel:
        chosen = Digest(entry.digest)
        path, pieces = self.artifacts.path(chosen), self.artifacts.pieces_of(chosen)
        return Parcel(chosen, entry.kind, entry.size_bytes, path, pieces)

    def adapter_parcel(self, digest: str) -> Parcel | None:
        """None when there is no such adapter."""
        found = next((entry for entry in self.entries(ADAPTER) if entry.digest == digest), None)
        return None if found is None else self.parcel(found)

    def remove(self, entry: CatalogueEntry) -> None:
        """The bytes and all their names."""
        chosen = Digest(entry.digest)
        if self.artifacts.stat(chosen) is not None:
            self.artifacts.delete(chosen)
        with self._store.write(Point.FLEET_FORGOTTEN) as transaction:
            names.forget(transaction, entry.digest)

    def _check_no_result(self, name: str) -> None:
        with self._store.read() as transaction:
            taken = next((e for e in names.every(transaction, ADAPTER) if e.name == name), None)
            job_id = "" if taken is None else str(taken.details.get("job_id") or "")
            trainer = jobs.find(transaction, job_id) if job_id else None
        if trainer is not None:
            raise AlreadyExists(
                f"There is an adapter {name} already: the result of job {trainer.name}.",
                why=f"Job {trainer.id} has trained it; an import would take its name away.",
                fix="Choose another name: --name.",
                field="name",
            )

    def _add(
        self, source: Path, kind: Kind, name: str, told: Mapping[str, object], as_prompts: bool
    ) -> CatalogueEntry:
        if not source.is_file():
            raise NotFound(f"There is no file {source}.", fix="Check the path.", field="source")
        read = details.read_prompts(source) if as_prompts else details.read(source, kind)
        known = {**read, **told}
        if kind != DATASET or _is_zstd(source):
            return self._record(self.artifacts.add_file(source, kind), known, name)
        with scratch.folder(self._scratch) as folder:
            compressed = folder / "dataset.zst"
            dataset.compress(source, compressed)
            return self._record(self.artifacts.add_file(compressed, kind), known, name)

    def _record(
        self, artifact: StoredArtifact, known: Mapping[str, object], name: str
    ) -> CatalogueEntry:
        chosen, kind, size = artifact.digest, artifact.kind, artifact.size_bytes
        with self._store.write(Point.FLEET_CATALOGUED) as transaction:
            names.add(transaction, chosen, kind, size, known, self._utc_ns())
            names.give(transaction, kind, name, chosen)
        return CatalogueEntry(name, chosen, size, kind, known)


def _name(chosen: str, source: Path) -> str:
    return references.checked_name(chosen) if chosen else references.name_for(source)


def _is_zstd(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
