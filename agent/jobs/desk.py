"""Where jobs are handed in and asked about: checks, the journal, then the runner.

A job is accepted only when it could run: its spec is sound, its artifacts are here, its memory is
predicted to fit. The artifacts are pinned before the job is journalled, so that at no moment an
accepted job lacks them. A job that is not accepted after all lets go of them again; a pin that a
crash left without a job is removed at the next start.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.jobs import spec as specs
from agent.jobs import states
from agent.jobs.leases import Leases
from agent.jobs.records import Records
from agent.jobs.runner import Runner, full_disk_told, pin, tidy, unpin
from agent.jobs.states import CancelAsked, PauseAsked, ResumeAsked
from agent.threads import in_thread
from artifacts import adapter, base_model, requested
from artifacts import digest as digests
from artifacts.manifest import check_sibling
from artifacts.record import Kind
from artifacts.store import ArtifactStore
from protos.errors import Busy, InvalidRequest, NotFound
from protos.lease import Instant
from protos.nanofleet.v1.artifact_pb2 import (
    ARTIFACT_KIND_ADAPTER,
    ARTIFACT_KIND_BASE_MODEL,
    ARTIFACT_KIND_DATASET,
)
from protos.nanofleet.v1.job_pb2 import GenerateSpec, Job, JobSpec
from protos.recipe import base_digest

_MOST_ACTIVE = 1000


class Desk:
    """``admit(base, spec)`` raises OutOfMemory for a job that would not fit this board."""

    def __init__(
        self,
        records: Records,
        store: ArtifactStore,
        runner: Runner,
        jobs: Path,
        leases: Leases,
        admit: Callable[[Path, JobSpec], object],
    ) -> None:
        self._records = records
        self._journal = records.journal
        self._store = store
        self._runner = runner
        self._jobs = jobs
        self._leases = leases
        self._admit = admit
        self._submitting = asyncio.Lock()  # of two that bring one job, neither unpins the other's

    async def submit(self, job_id: str, generation: int, spec: bytes, submitted_by: str) -> Job:
        specs.checked_id(job_id)
        if generation < 1:
            raise InvalidRequest("The generation starts at 1.", field="generation")
        parsed = specs.parsed(spec)
        async with self._submitting:
            is_new = not await self._is_known(job_id)
            if is_new:
                await self._check_room()
            try:
                if is_new:
                    await in_thread(self._accept, job_id, parsed)
                job = await self._records.write(
                    self._journal.submit, job_id, generation, spec, submitted_by
                )
            except BaseException:
                await self._let_go_of_unknown(job_id, parsed)
                raise
        self._runner.wake()
        return job

    async def cancel(self, job_id: str, generation: int = 0) -> Job:
        """With a ``generation``: not, if a newer one is here."""
        if generation:
            job = await self._records.read(self._journal.job, specs.checked_id(job_id))
            if job.generation > generation:
                return job
        job = await self._asked(job_id, CancelAsked())
        if job.state in states.ENDED:
            self._leases.forget(job.id)
            await asyncio.to_thread(tidy, self._store, self._jobs, job)
            return job
        await self._runner.heed(job, states.Wish.CANCEL)
        return await self._records.read(self._journal.job, job_id)

    async def pause(self, job_id: str) -> Job:
        job = await self._asked(job_id, PauseAsked())
        if job.state == states.RUNNING:
            await self._runner.heed(job, states.Wish.PAUSE)
        return job

    async def resume(self, job_id: str) -> Job:
        job = await self._asked(job_id, ResumeAsked())
        self._runner.wake()
        return job

    async def renew_leases(self, stamp: Instant, grants: Mapping[str, int]) -> dict[str, int]:
        """When the leases end that are held after these grants (generations by job)."""
        ends: dict[str, int] = {}
        for entry in await self._records.read(self._journal.entries, tuple(states.ACTIVE)):
            job = entry.job
            if not job.spec.lease_s or grants.get(job.id) != job.generation:
                continue
            if end_ns := self._leases.grant(job, stamp):
                ends[job.id] = end_ns
                await self._runner.extend_lease(job.id, end_ns)
        return ends

    async def _asked(self, job_id: str, event: states.Event) -> Job:
        return await self._records.write(self._journal.apply, specs.checked_id(job_id), event)

    async def _is_known(self, job_id: str) -> bool:
        try:
            await self._records.read(self._journal.job, job_id)
        except NotFound:
            return False
        return True

    async def _check_room(self) -> None:
        active = await self._records.read(self._journal.count, tuple(states.ACTIVE))
        if active >= _MOST_ACTIVE:
            raise Busy(f"{active} jobs wait on this device already.", retry_after_s=60)

    async def _let_go_of_unknown(self, job_id: str, spec: JobSpec) -> None:
        """Asked of the journal, because a caller that gave up does not stop a commit."""
        if await self._is_known(job_id):
            self._runner.wake()
            return
        with full_disk_told(job_id):
            await in_thread(unpin, self._store, job_id, spec)

    def _accept(self, job_id: str, spec: JobSpec) -> None:
        """Blocking: it writes the pins."""
        self.check(spec)
        pin(self._store, job_id, spec)

    def check(self, spec: JobSpec) -> None:
        """Raises what a job of this spec is refused with. Blocking: it reads the base model's
        header."""
        kind = spec.WhichOneof("work")
        base = self._found(base_digest(spec), ARTIFACT_KIND_BASE_MODEL, f"{kind}.base_digest")
        if spec.HasField("generate"):
            self._check_inputs(base, spec.generate)
        for number, stage in enumerate(spec.train.stages):
            field = f"train.stages[{number}].dataset_digest"
            self._found(stage.dataset_digest, ARTIFACT_KIND_DATASET, field)
        self._admit(base, spec)

    def _check_inputs(self, base: Path, spec: GenerateSpec) -> None:
        """Raises WrongBase for an adapter of another base, too."""
        self._found(spec.dataset_digest, ARTIFACT_KIND_DATASET, "generate.dataset_digest")
        model = base_model.read(base)
        if model.is_for_training_only:
            raise InvalidRequest(
                f"The base model {model.name} cannot generate.",
                why="Its weights are qint8, which is for training: llama.cpp has no such type.",
                fix="Name a q8_0 of the same folder; adapters of this one fit it, too.",
                reason="UNSUPPORTED_FEATURE",
                field="generate.base_digest",
            )
        if spec.adapter_digest:
            field = "generate.adapter_digest"
            archive = self._found(spec.adapter_digest, ARTIFACT_KIND_ADAPTER, field)
            manifest = adapter.read_manifest(archive)
            if manifest.base_digest != spec.base_digest:
                check_sibling(manifest, digests.parse(spec.base_digest), model)

    def _found(self, digest: str, kind: Kind, field: str) -> Path:
        return requested.find(self._store, digests.parse(digest, field), kind, field)
