"""The fleet for code without an event loop: scripts, notebooks, a REPL.

    with SyncFleet.open() as fleet:
        job = fleet.submit(load_job_file(Path("finetune.yaml")))
        for event in fleet.watch(job.id):
            print(event)

The same methods as Fleet's, from a thread that runs the loop: what is awaited there returns here,
and asynchronous iterators are generators. Ctrl-C and a closed generator cancel what runs there.
"""

import asyncio
import contextlib
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from artifacts.record import Kind
from controller.fleet import NO_BIAS, NO_LABELS, NO_SIGHTINGS, Fleet
from controller.following import OnInterruption
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
from controller.tokens import TOKEN_LIFE_S
from controller.transfer import OnProgress
from protos.errors import Refused
from protos.identity import Role
from protos.nanofleet.v1 import artifact_pb2, device_pb2, inference_pb2, job_pb2, telemetry_pb2
from protos.transport import ENROLMENT_PORT

if TYPE_CHECKING:
    from artifacts.samples import Sample
    from controller.enrolment_server import EnrolmentServer
    from controller.jobfile import JobFile

T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open: set[AsyncGenerator[object, None]] = set()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="nanofleet-fleet", daemon=True
        )
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """What it returns or raises. Ctrl-C cancels it, and is raised once it has ended: what
        comes after may use what it used.
        """
        if self.is_closed:
            work.close()
            raise Refused("This fleet is closed.", fix="Open it again: SyncFleet.open().")
        tasks: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def start() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda _: ended.set())

        def stop() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # Ctrl-C came before it was started
                work.close()
                ended.set()

        try:
            self._loop.call_soon_threadsafe(start)
            ended.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(stop)
            ended.wait()
            raise
        return tasks[0].result()

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        self._open.add(items)
        try:
            while True:
                try:
                    item = self.run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if items in self._open:
                self._open.remove(items)
                self.run(_closed(items))

    def call(self, function: Callable[[], T]) -> T:
        """A plain function, in the thread of the loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    def end_generators(self) -> None:
        """Those that somebody began and did not finish."""
        while self._open:
            self.run(_closed(self._open.pop()))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await items.__anext__()


async def _closed(items: AsyncGenerator[object, None]) -> None:
    await items.aclose()


class SyncEnrolment:
    """EnrolmentServer, waited for."""

    def __init__(self, loop: _Loop, server: "EnrolmentServer") -> None:
        self._loop = loop
        self._server = server
        self.address = server.address
        self.renewal_address = server.renewal_address

    def joined(self, name: str, timeout_s: float | None = None) -> DeviceRecord:
        return self._loop.run(self._server.joined(name, timeout_s))


class SyncFleet:
    """See Fleet: the same names, arguments, results and errors."""

    def __init__(self, loop: _Loop, fleet: Fleet) -> None:
        self._loop = loop
        self._fleet = fleet
        self.home = fleet.home
        self.name = fleet.name

    @classmethod
    def create(cls, home: Path, *, name: str = "fleet") -> "SyncFleet":
        return cls._started(lambda: Fleet.create(home, name=name))

    @classmethod
    def open(cls, home: Path | None = None) -> "SyncFleet":
        return cls._started(lambda: Fleet.open(home))

    @classmethod
    def _started(cls, make: Callable[[], Fleet]) -> "SyncFleet":
        loop = _Loop()
        try:
            return cls(loop, loop.call(make))
        except BaseException:
            loop.close()
            raise

    def __enter__(self) -> "SyncFleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closing it again does nothing."""
        if not self._loop.is_closed:
            self._loop.end_generators()
            self._loop.run(self._fleet.close())
            self._loop.close()

    # Devices

    @contextlib.contextmanager
    def enrolment(
        self, host: str = "0.0.0.0", port: int = ENROLMENT_PORT
    ) -> Iterator[SyncEnrolment]:
        serving = self._fleet.enrolment(host, port)
        server = self._loop.run(serving.__aenter__())
        try:
            yield SyncEnrolment(self._loop, server)
        finally:
            self._loop.run(serving.__aexit__(None, None, None))

    def new_token(
        self,
        device: str,
        *,
        address: str,
        labels: Mapping[str, str] = NO_LABELS,
        ttl_s: float = TOKEN_LIFE_S,
    ) -> Token:
        return self._fleet.new_token(device, address=address, labels=labels, ttl_s=ttl_s)

    def devices(self, selector: str = "") -> list[DeviceRecord]:
        return self._fleet.devices(selector)

    def status(self, device: str) -> DeviceStatus:
        return self._loop.run(self._fleet.status(device))

    def statuses(self, selector: str = "") -> list[DeviceStatus]:
        return self._loop.run(self._fleet.statuses(selector))

    def sightings(self, before: Mapping[str, Sighting] = NO_SIGHTINGS) -> list[Sighting]:
        return self._loop.run(self._fleet.sightings(before))

    def device_events(self, device: str, *, newest: int = 20) -> list[device_pb2.DeviceEvent]:
        return self._loop.run(self._fleet.device_events(device, newest=newest))

    def label_device(self, device: str, labels: Mapping[str, str]) -> None:
        self._fleet.label_device(device, labels)

    def remove_device(self, device: str) -> None:
        self._fleet.remove_device(device)

    # API keys

    def add_key(self, name: str, *, role: Role = Role.OPERATOR, ttl_s: float = 0.0) -> NewKey:
        return self._fleet.add_key(name, role=role, ttl_s=ttl_s)

    def keys(self) -> list[ApiKey]:
        return self._fleet.keys()

    def any_key_made(self) -> bool:
        return self._fleet.any_key_made()

    def revoke_key(self, name: str) -> ApiKey:
        return self._fleet.revoke_key(name)

    def key_holder(self, text: str) -> ApiKey:
        return self._fleet.key_holder(text)

    # Artifacts

    def import_model(
        self,
        source: Path,
        *,
        name: str = "",
        file_type: str = "q8_0",
        on_progress: Callable[[ImportProgress], None] | None = None,
    ) -> CatalogueEntry:
        work = self._fleet.import_model(
            source, name=name, file_type=file_type, on_progress=on_progress
        )
        return self._loop.run(work)

    def import_adapter(self, folder: Path, *, base: str, name: str = "") -> CatalogueEntry:
        return self._loop.run(self._fleet.import_adapter(folder, base=base, name=name))

    def add_dataset(self, source: Path, *, name: str = "") -> CatalogueEntry:
        return self._loop.run(self._fleet.add_dataset(source, name=name))

    def add_artifact(self, source: Path, kind: Kind, *, name: str = "") -> CatalogueEntry:
        return self._loop.run(self._fleet.add_artifact(source, kind, name=name))

    def artifacts(self, kind: Kind | None = None) -> list[CatalogueEntry]:
        return self._fleet.artifacts(kind)

    def resolve(self, reference: str, kind: Kind | None = None) -> CatalogueEntry:
        return self._fleet.resolve(reference, kind)

    def path_of(self, reference: str, kind: Kind | None = None) -> Path:
        return self._fleet.path_of(reference, kind)

    def push(
        self, reference: str, devices: Sequence[str], on_progress: OnProgress | None = None
    ) -> list[Transfer]:
        return self._loop.run(self._fleet.push(reference, devices, on_progress))

    def pull(
        self, device: str, digest: str, target: Path, on_progress: OnProgress | None = None
    ) -> Transfer:
        return self._loop.run(self._fleet.pull(device, digest, target, on_progress))

    def remote_artifacts(self, device: str) -> list[artifact_pb2.Artifact]:
        return self._loop.run(self._fleet.remote_artifacts(device))

    def remove_artifact(self, reference: str, *, device: str = "") -> None:
        self._loop.run(self._fleet.remove_artifact(reference, device=device))

    # Jobs

    def submit(self, job: "JobFile", on_progress: OnProgress | None = None) -> JobRecord:
        return self._loop.run(self._fleet.submit(job, on_progress))

    def plan(
        self, job: "JobFile", on_progress: OnProgress | None = None
    ) -> Generator[PlanStep, None, None]:
        return self._loop.iterate(self._fleet.plan(job, on_progress))

    def jobs(self, *, device: str = "", states: Collection[State] = ()) -> list[JobRecord]:
        return self._fleet.jobs(device=device, states=states)

    def refresh(self, job_id: str = "") -> Mapping[str, str]:
        return self._loop.run(self._fleet.refresh(job_id))

    def job(self, reference: str) -> JobRecord:
        return self._fleet.job(reference)

    def watch(
        self, reference: str, *, on_interruption: OnInterruption | None = None
    ) -> Generator[job_pb2.JobEvent, None, None]:
        return self._loop.iterate(self._fleet.watch(reference, on_interruption=on_interruption))

    def wait(self, reference: str, timeout_s: float | None = None) -> JobRecord:
        return self._loop.run(self._fleet.wait(reference, timeout_s))

    def cancel(self, reference: str) -> JobRecord:
        return self._loop.run(self._fleet.cancel(reference))

    def pause(self, reference: str) -> JobRecord:
        return self._loop.run(self._fleet.pause(reference))

    def resume(self, reference: str) -> JobRecord:
        return self._loop.run(self._fleet.resume(reference))

    def events(self, reference: str) -> list[job_pb2.JobEvent]:
        return self._fleet.events(reference)

    def fetch_result(self, reference: str) -> CatalogueEntry:
        return self._loop.run(self._fleet.fetch_result(reference))

    # Inference and telemetry

    def generate(
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
    ) -> Generator[inference_pb2.GenerateResponse, None, None]:
        return self._loop.iterate(
            self._fleet.generate(
                device,
                base=base,
                adapter=adapter,
                prompt=prompt,
                messages=messages,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repeat_penalty=repeat_penalty,
                seed=seed,
                stop=stop,
                suppress_tokens=suppress_tokens,
                suppress_texts=suppress_texts,
                logit_bias=logit_bias,
                gbnf=gbnf,
                json_schema=json_schema,
                top_logprobs=top_logprobs,
                priority=priority,
                deadline_s=deadline_s,
            )
        )

    def embed(
        self,
        device: str,
        texts: Sequence[str],
        *,
        base: str,
        adapter: str = "",
        normalized: bool = False,
        priority: str = "normal",
        deadline_s: float = 0.0,
    ) -> Generator[inference_pb2.EmbedResponse, None, None]:
        return self._loop.iterate(
            self._fleet.embed(
                device,
                texts,
                base=base,
                adapter=adapter,
                normalized=normalized,
                priority=priority,
                deadline_s=deadline_s,
            )
        )

    def score(
        self,
        device: str,
        samples: "Iterable[Sample]",
        *,
        base: str,
        adapter: str = "",
        priority: str = "normal",
        deadline_s: float = 0.0,
    ) -> Generator[inference_pb2.ScoreResponse, None, None]:
        return self._loop.iterate(
            self._fleet.score(
                device,
                samples,
                base=base,
                adapter=adapter,
                priority=priority,
                deadline_s=deadline_s,
            )
        )

    def load_model(self, device: str, base: str) -> inference_pb2.LoadModelResponse:
        return self._loop.run(self._fleet.load_model(device, base))

    def unload_model(self, device: str) -> None:
        self._loop.run(self._fleet.unload_model(device))

    def telemetry(
        self, device: str, *, history: bool = False
    ) -> Generator[telemetry_pb2.TelemetrySample, None, None]:
        return self._loop.iterate(self._fleet.telemetry(device, history=history))
