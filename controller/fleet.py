"""The fleet, from Python: one object, one method for each thing that can be asked of it.

    async with Fleet.open() as fleet:
        job = await fleet.submit(load_job_file(Path("finetune.yaml")))
        async for event in fleet.watch(job.id):
            print(event)
        adapter = await fleet.fetch_result(job.id)

A facade: each method says which part does the work. Methods without ``async`` read or write the
fleet's own folder only. Every method raises errors of protos.errors and no others. A fleet belongs
to one event loop at a time; connections are made on first use and closed with the fleet.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from async_timeout import timeout

from artifacts.digest import Digest
from artifacts.persisting import Point
from artifacts.record import Kind
from controller import (
    collector,
    facts,
    generation,
    references,
    refreshing,
    results,
    selector,
    supplying,
    telemetry,
    transfer,
)
from controller.catalogue import ADAPTER, BASE_MODEL, DATASET, Catalogue
from controller.device import Connections, DeviceConnection
from controller.dispatch import Dispatcher
from controller.failover import FailOver
from controller.following import Follower, OnInterruption
from controller.home import Home, default_home
from controller.keys import Keys
from controller.preparing import Preparation
from controller.probe import Probe
from controller.records import (
    ApiKey,
    CatalogueEntry,
    DeviceRecord,
    DeviceStatus,
    ImportProgress,
    JobRecord,
    NewKey,
    PlanStep,
    Sighting,
    State,
    Token,
    Transfer,
)
from controller.store import devices as stored_devices
from controller.store import jobs as stored_jobs
from controller.store import leases as stored_leases
from controller.tokens import TOKEN_LIFE_S
from controller.transfer import OnProgress
from protos.errors import TimedOut
from protos.identity import Role
from protos.nanofleet.v1 import artifact_pb2, device_pb2, inference_pb2, job_pb2, telemetry_pb2
from protos.transport import ENROLMENT_PORT

if TYPE_CHECKING:
    from artifacts.samples import Sample
    from controller.enrolment_server import EnrolmentServer
    from controller.jobfile import JobFile

# A model is read whole, maybe while another one trains: so long, and as its size asks for.
LOAD_MODEL_S = 60.0
SLOWEST_DISK_BYTES_PER_S = 2_000_000

_REMOVED = (
    "The device was removed from the fleet while the job was unfinished there. Submit it again, to "
    "another one."
)

NO_LABELS: Mapping[str, str] = MappingProxyType({})
NO_BIAS: Mapping[int, float] = MappingProxyType({})
NO_SIGHTINGS: Mapping[str, Sighting] = MappingProxyType({})


class Fleet:
    """Made by ``create`` or ``open``; closed by leaving ``async with``, or with ``close``."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._store = home.store()
        self._catalogue = Catalogue(self._store, home.artifacts(), home.scratch)
        self._connections = Connections(home.credentials())
        self._probe = Probe(self._store, self._connections)
        preparation = Preparation(self._catalogue, self.fetch_result)
        self._dispatcher = Dispatcher(
            self._store, self._catalogue, self._connections, self._probe, preparation
        )
        self._keys = Keys(self._store)
        self._fail_over = FailOver(self._dispatcher)
        self._follower = Follower(
            self._store, self._connections, self._dispatcher.ensure_sent, self._fail_over
        )
        self.home = home.root
        self.name = home.name(self._store)

    @classmethod
    def create(cls, home: Path, *, name: str = "fleet") -> "Fleet":
        """Makes the certificate authority, the controller's identity and the store.

        AlreadyExists, and nothing touched, when there is a fleet in ``home``.
        """
        return cls(Home.create(home, name))

    @classmethod
    def open(cls, home: Path | None = None) -> "Fleet":
        """NotFound when there is no fleet: run `nanofleet init`."""
        return cls(Home.open(default_home() if home is None else home))

    async def __aenter__(self) -> "Fleet":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connections.close()
        self._store.close()

    # Devices

    def enrolment(
        self, host: str = "0.0.0.0", port: int = ENROLMENT_PORT
    ) -> "AbstractAsyncContextManager[EnrolmentServer]":
        """The service that devices join by, while the block runs. InUse when a port is taken."""
        from controller.enrolment_server import serving

        return serving(self._store, self._home.authority(), self._home.identity(), host, port)

    def new_token(
        self,
        device: str,
        *,
        address: str,
        labels: Mapping[str, str] = NO_LABELS,
        ttl_s: float = TOKEN_LIFE_S,
    ) -> Token:
        """A one-time invitation; ``address`` is where the device finds the enrolment service."""
        from controller.enrolment import Enrolment

        enrolment = Enrolment(self._store, self._home.authority())
        return enrolment.invite(device, address, labels, ttl_s)

    def devices(self, selector: str = "") -> list[DeviceRecord]:
        """By name, as last seen."""
        with self._store.read() as transaction:
            records = stored_devices.every(transaction)
        return facts.selected(records, selector)

    async def status(self, device: str) -> DeviceStatus:
        return await self._probe.status(self._device(device))

    async def statuses(self, selector: str = "") -> list[DeviceStatus]:
        """All at once; unreachable ones are there, with the problem."""
        found = await self._probe.statuses(self.devices())
        return facts.selected_statuses(found, selector)

    async def sightings(self, before: Mapping[str, Sighting] = NO_SIGHTINGS) -> list[Sighting]:
        """As ``statuses`` with what each device holds, for who asks every few seconds: nothing is
        noted in the store. ``before``: the last ones, by device."""
        return await self._probe.sightings(self.devices(), before)

    async def device_events(self, device: str, *, newest: int = 20) -> list[device_pb2.DeviceEvent]:
        """What was decided about its models, the oldest of them first."""
        connection = self._to(device)
        request = device_pb2.ListEventsRequest(newest=newest)
        return list((await connection.call(connection.devices.ListEvents, request)).events)

    def label_device(self, device: str, labels: Mapping[str, str]) -> None:
        """Replaces the device's labels."""
        name, checked = self._device(device).name, selector.checked_labels(labels)
        with self._store.write(Point.FLEET_LABELLED) as transaction:
            stored_devices.set_labels(transaction, name, checked)

    def remove_device(self, device: str) -> None:
        """Its certificate is not accepted any more by connections that are made from now on. Its
        unfinished jobs are failed: what it still does is nobody's any more."""
        name = self._device(device).name
        with self._store.write(Point.FLEET_REMOVED) as transaction:
            for record in stored_jobs.unfinished(transaction, name):
                stored_jobs.fail(transaction, record, _REMOVED)
            stored_devices.remove(transaction, name)

    # API keys

    def add_key(self, name: str, *, role: Role = Role.OPERATOR, ttl_s: float = 0.0) -> NewKey:
        """For `nanofleet serve`: a viewer's sees the models, an operator's generates. ``ttl_s`` 0:
        until it is revoked. AlreadyExists while an unrevoked key has the name."""
        return self._keys.add(name, role, ttl_s)

    def keys(self) -> list[ApiKey]:
        """Oldest first; revoked and expired ones, too."""
        return self._keys.every()

    def any_key_made(self) -> bool:
        """Also when all are revoked by now."""
        return self._keys.any_made()

    def revoke_key(self, name: str) -> ApiKey:
        return self._keys.revoke(name)

    def key_holder(self, text: str) -> ApiKey:
        """The key that ``text`` is. Unauthenticated when it is none, or not any more."""
        return self._keys.holder(text)

    # Artifacts

    async def import_model(
        self,
        source: Path,
        *,
        name: str = "",
        file_type: str = "q8_0",
        on_progress: Callable[[ImportProgress], None] | None = None,
    ) -> CatalogueEntry:
        """A .gguf file, or a Hugging Face folder, which is converted in a process of its own."""
        return await self._catalogue.import_model(source, name, file_type, on_progress)

    async def import_adapter(self, folder: Path, *, base: str, name: str = "") -> CatalogueEntry:
        """A LoRA as PEFT saved it, for a base model of the catalogue, as if a job had trained it.

        InvalidRequest for what is more than LoRA or does not fit the base, AlreadyExists for the
        name of a job's result.
        """
        return await self._catalogue.import_adapter(folder, base, name)

    async def add_dataset(self, source: Path, *, name: str = "") -> CatalogueEntry:
        """JSONL, checked line by line. InvalidDataset lists what is wrong, with line numbers."""
        return await self._catalogue.add(source, DATASET, name)

    async def add_artifact(self, source: Path, kind: Kind, *, name: str = "") -> CatalogueEntry:
        return await self._catalogue.add(source, kind, name)

    def artifacts(self, kind: Kind | None = None) -> list[CatalogueEntry]:
        return self._catalogue.entries(kind)

    def resolve(self, reference: str, kind: Kind | None = None) -> CatalogueEntry:
        """A name, ``kind/name``, a digest, or its first digits. NotFound lists near names."""
        return self._catalogue.resolve(reference, kind)

    def path_of(self, reference: str, kind: Kind | None = None) -> Path:
        """Where the bytes lie in the fleet's own store, to read."""
        return self._catalogue.parcel(self.resolve(reference, kind)).path

    async def push(
        self, reference: str, devices: Sequence[str], on_progress: OnProgress | None = None
    ) -> list[Transfer]:
        """To all of them at once. When one fails the others are finished, then it is raised.

        One name may stand by itself.
        """
        names = [devices] if isinstance(devices, str) else devices
        parcel = self._catalogue.parcel(self.resolve(reference))
        return await transfer.push([self._to(name) for name in names], parcel, on_progress)

    async def pull(
        self, device: str, digest: str, target: Path, on_progress: OnProgress | None = None
    ) -> Transfer:
        """An artifact of the device into a new file; a broken download goes on where it ended."""
        connection = self._to(device)
        return await transfer.to_file(connection, self._digest(digest), target, on_progress)

    async def remote_artifacts(self, device: str) -> list[artifact_pb2.Artifact]:
        connection = self._to(device)
        request = artifact_pb2.ListArtifactsRequest()
        response = await connection.call(connection.artifacts.ListArtifacts, request)
        return list(response.artifacts)

    async def remove_artifact(self, reference: str, *, device: str = "") -> None:
        """From the fleet's store, or from a device. InUse when something needs it there."""
        if device:
            connection = self._to(device)
            request = artifact_pb2.DeleteArtifactRequest(digest=self._digest(reference))
            await connection.call(connection.artifacts.DeleteArtifact, request)
            return
        entry = self.resolve(reference)
        self._dispatcher.check_unneeded(entry)
        self._catalogue.remove(entry)

    # Jobs

    async def submit(self, job: "JobFile", on_progress: OnProgress | None = None) -> JobRecord:
        """Finds names, a device and what it lacks, pushes that, and hands the job over.

        A dataset that is a file is added to the catalogue first. Refused says why each device
        cannot have the job; Unreachable with a job id says that it is assigned, and sent again.
        """
        record = await self._dispatcher.submit(job, on_progress)
        if record.job.spec.lease_s:
            await self.refresh(record.id)  # grants its lease: it starts with it
        return self.job(record.id)

    async def plan(
        self, job: "JobFile", on_progress: OnProgress | None = None
    ) -> AsyncGenerator[PlanStep, None]:
        """Rehearses a job on the device that it would be sent to, and starts nothing: the checks
        as they pass, then the plan. Raises what the first check that fails says; OutOfMemory names
        settings that fit."""
        async with aclosing(self._dispatcher.plan(job, on_progress)) as steps:
            async for step in steps:
                yield step

    def jobs(self, *, device: str = "", states: Collection[State] = ()) -> list[JobRecord]:
        """Newest first, as the store knows them; ``refresh`` first for the newest.

        NotFound for a device that is not in the fleet, unless it left jobs behind.
        """
        with self._store.read() as transaction:
            found = stored_jobs.every(transaction, device, states)
            if device and not stored_jobs.every(transaction, device, ()):
                stored_devices.require(transaction, device)
            return found

    async def refresh(self, job_id: str = "") -> Mapping[str, str]:
        """Collects events of the devices with unfinished jobs, or of that job's device.

        Devices that cannot be reached change nothing; what kept each away is returned.
        """
        with self._store.read() as transaction:
            wanted = {record.device for record in stored_jobs.unfinished(transaction)}
            wanted |= {left.device for left in stored_leases.left_on(transaction)}
        if job_id:
            wanted = {self.job(job_id).device}
        devices = [record for record in self.devices() if record.name in wanted]
        return await refreshing.refresh(self._fail_over, devices)

    def job(self, reference: str) -> JobRecord:
        """By id, the beginning of one, or the newest of that name."""
        with self._store.read() as transaction:
            return stored_jobs.require(transaction, reference)

    async def watch(
        self, reference: str, *, on_interruption: OnInterruption | None = None
    ) -> AsyncGenerator[job_pb2.JobEvent, None]:
        """Its events from the first one, then live until it ends, across broken links."""
        events = self._follower.follow(self.job(reference).id, on_interruption)
        async with aclosing(events):
            async for event in events:
                yield event

    async def wait(self, reference: str, timeout_s: float | None = None) -> JobRecord:
        """The job once it has ended. TimedOut when that takes longer; the job goes on."""
        record = self.job(reference)
        try:
            async with timeout(timeout_s):
                await self._to_the_end(record.id)
        except asyncio.TimeoutError as error:
            raise TimedOut(
                f"Job {record.name} ({record.id}) has not ended within {timeout_s:g} s.",
                why="It goes on.",
                fix=f"Wait longer, or watch it: `nanofleet job watch {record.name}`.",
                reason="WAIT_TIMED_OUT",
            ) from error
        return self.job(record.id)

    async def cancel(self, reference: str) -> JobRecord:
        """Idempotent. The job ends when its worker has stopped; ``wait`` waits for that."""
        record, connection = await self._confirmed(reference)
        request = job_pb2.CancelJobRequest(job_id=record.id)
        await connection.call(connection.jobs.CancelJob, request)
        return await self._collected(record, connection)

    async def pause(self, reference: str) -> JobRecord:
        """Takes effect at the next micro-step."""
        record, connection = await self._confirmed(reference)
        request = job_pb2.PauseJobRequest(job_id=record.id)
        await connection.call(connection.jobs.PauseJob, request)
        return await self._collected(record, connection)

    async def resume(self, reference: str) -> JobRecord:
        record, connection = await self._confirmed(reference)
        request = job_pb2.ResumeJobRequest(job_id=record.id)
        await connection.call(connection.jobs.ResumeJob, request)
        return await self._collected(record, connection)

    def events(self, reference: str) -> list[job_pb2.JobEvent]:
        """Those in the store, in order."""
        record = self.job(reference)
        with self._store.read() as transaction:
            return stored_jobs.events_of(transaction, record)

    async def fetch_result(self, reference: str) -> CatalogueEntry:
        """The job's adapter or dataset, in the fleet's store under the job's name. Refused before
        the end."""
        record = self.job(reference)
        if not record.ended:
            await self.refresh(record.id)
            record = self.job(record.id)
        at_home = results.at_home(self._catalogue, record)
        if at_home is not None:
            return at_home
        return await results.fetch(self._catalogue, self._to(record.device), record)

    # Inference and telemetry

    async def generate(
        self,
        device: str,
        *,
        base: str,
        adapter: str = "",
        prompt: str = "",
        messages: Sequence[tuple[str, str]] = (),
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        min_p: float = 0.0,
        repeat_penalty: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        suppress_tokens: Sequence[int] = (),
        suppress_texts: Sequence[str] = (),
        logit_bias: Mapping[int, float] = NO_BIAS,
        gbnf: str = "",
        json_schema: str = "",
        top_logprobs: int | None = None,
        priority: str = "normal",
        deadline_s: float = 0.0,
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Text as it comes; the last response has finish_reason and usage. An adapter that the
        device has not, and the fleet's store has, is pushed to it first, as for ``embed`` and
        ``score``.

        Give ``prompt``, continued as it is, or ``messages`` of (role, content), which go through
        the model's chat template. Leaving the loop cancels the generation on the device.

        ``logit_bias`` is added to the logits of single tokens. ``gbnf`` or ``json_schema`` binds
        the answer to a form. With ``top_logprobs`` each token brings its log-probability and those
        of so many likeliest. ``priority`` is low, normal or high; a request whose turn does not
        come within ``deadline_s`` raises TimedOut.
        """
        sampling = inference_pb2.Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            suppress_tokens=suppress_tokens,
            suppress_texts=suppress_texts,
            logit_bias=logit_bias,
        )
        request = generation.request(
            base_digest=self._digest(base, BASE_MODEL),
            adapter_digest=self._digest(adapter, ADAPTER) if adapter else "",
            prompt=prompt,
            messages=messages,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            gbnf=gbnf,
            json_schema=json_schema,
            top_logprobs=top_logprobs,
            priority=priority,
            deadline_s=deadline_s,
        )
        connection = self._to(device)
        parcel_of = self._catalogue.adapter_parcel
        stream = supplying.answers(connection, connection.inference.Generate, request, parcel_of)
        async with aclosing(stream):
            async for response in stream:
                yield response

    async def embed(
        self,
        device: str,
        texts: Sequence[str],
        *,
        base: str,
        adapter: str = "",
        normalized: bool = False,
        priority: str = "normal",
        deadline_s: float = 0.0,
    ) -> AsyncGenerator[inference_pb2.EmbedResponse, None]:
        """A vector for each text, in their order: the mean of its final hidden states."""
        connection = self._to(device)
        first = 0
        for batch in generation.batches(texts):
            request = inference_pb2.EmbedRequest(
                base_digest=self._digest(base, BASE_MODEL),
                adapter_digest=self._digest(adapter, ADAPTER) if adapter else "",
                texts=batch,
                normalized=normalized,
                priority=generation.priority_of(priority),
                deadline_s=deadline_s,
            )
            parcel_of = self._catalogue.adapter_parcel
            stream = supplying.answers(connection, connection.inference.Embed, request, parcel_of)
            async with aclosing(stream):
                async for response in stream:
                    response.index += first
                    yield response
            first += len(batch)

    async def score(
        self,
        device: str,
        samples: "Iterable[Sample]",
        *,
        base: str,
        adapter: str = "",
        priority: str = "normal",
        deadline_s: float = 0.0,
    ) -> AsyncGenerator[inference_pb2.ScoreResponse, None]:
        """How likely the model finds each sample's answer, in their order.

        Samples are those of a dataset (``artifacts.dataset.read``); scored is what training would
        label, so that the mean over a dataset is its held-out loss with the other sign.
        """
        connection = self._to(device)
        first = 0
        for batch in generation.batches(samples):
            request = inference_pb2.ScoreRequest(
                base_digest=self._digest(base, BASE_MODEL),
                adapter_digest=self._digest(adapter, ADAPTER) if adapter else "",
                items=map(generation.score_item, batch),
                priority=generation.priority_of(priority),
                deadline_s=deadline_s,
            )
            parcel_of = self._catalogue.adapter_parcel
            stream = supplying.answers(connection, connection.inference.Score, request, parcel_of)
            async with aclosing(stream):
                async for response in stream:
                    response.index += first
                    yield response
            first += len(batch)

    async def load_model(self, device: str, base: str) -> inference_pb2.LoadModelResponse:
        connection, digest = self._to(device), self._digest(base, BASE_MODEL)
        held = await transfer.stat(connection, digest)
        timeout_s = LOAD_MODEL_S + held.artifact.size_bytes / SLOWEST_DISK_BYTES_PER_S
        request = inference_pb2.LoadModelRequest(base_digest=digest)
        return await connection.call(connection.inference.LoadModel, request, timeout_s)

    async def unload_model(self, device: str) -> None:
        connection = self._to(device)
        request = inference_pb2.UnloadModelRequest()
        await connection.call(connection.inference.UnloadModel, request)

    async def telemetry(
        self, device: str, *, history: bool = False
    ) -> AsyncGenerator[telemetry_pb2.TelemetrySample, None]:
        """Samples as they are taken; with ``history`` from the oldest that the device keeps."""
        samples = telemetry.follow(self._to(device), from_oldest=history)
        async with aclosing(samples):
            async for sample in samples:
                yield sample

    def _device(self, name: str) -> DeviceRecord:
        with self._store.read() as transaction:
            return stored_devices.require(transaction, name)

    def _to(self, device: str) -> DeviceConnection:
        return self._connections.to(self._device(device))

    def _digest(self, reference: str, kind: Kind | None = None) -> Digest:
        """A whole digest as it is: a device may hold what the fleet's own store does not."""
        if references.is_digest(reference):
            return Digest(reference)
        return Digest(self.resolve(reference, kind).digest)

    async def _confirmed(self, reference: str) -> tuple[JobRecord, DeviceConnection]:
        """The job, once its device has it."""
        record = self.job(reference)
        await self._dispatcher.ensure_sent(record)
        return record, self._to(record.device)

    async def _collected(self, record: JobRecord, connection: DeviceConnection) -> JobRecord:
        await collector.collect(self._store, connection)
        return self.job(record.id)

    async def _to_the_end(self, job_id: str) -> None:
        async with aclosing(self._follower.follow(job_id)) as events:
            async for _ in events:
                pass
