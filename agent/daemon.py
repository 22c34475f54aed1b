"""The agent: everything is built here, started here, and stopped here, in this order.

    lock ─ identity ─ ballast ─ sweep ─ machine ─ store ─ journal ─ telemetry ring ─ recovery
         ─ memory ─ runner, model host ─ server

Long-lived tasks, all owned by ``serve`` and cancelled or stopped by it:

    jobs         Runner.run: the queue, one job at a time. Its end ends the agent.
    telemetry    recorder.record: a sample a second. Started again when it fails.
    ballast      Ballast.keep: room for the next start, kept again once there is some.
    machine      Machine.run: moves a simulated board, or reads a program beside the sensors.
    arbiter      Residents.run: who has the board's memory, once a second.
    warm start   warm_start: the model that was served last, once.
    heartbeat    Heartbeat.run: tells systemd that loop, journal and job go on, while they do.

Tasks of a worker (its reports, its log, its end) belong to the worker and end with it. On SIGTERM
the server stops first, so that nobody is promised anything any more; then the running job gets time
for a checkpoint; then the model is unloaded.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent import identity
from agent.ballast import Ballast
from agent.clock import SystemClock
from agent.config import Config
from agent.heartbeat import Heartbeat
from agent.inference.engines import named
from agent.jobs import quarantine, recovery, retention
from agent.jobs.attempt import Attempt
from agent.jobs.desk import Desk
from agent.jobs.leases import Leases
from agent.jobs.means import Means
from agent.jobs.patience import Patience
from agent.jobs.records import Records
from agent.jobs.rehearsal import Rehearsals
from agent.jobs.runner import Runner
from agent.lock import StateLock
from agent.machine import Machine
from agent.memory import calibration_file, torch_build
from agent.memory.arbiter import Policy
from agent.memory.budget import Budget
from agent.memory.calibration_file import CalibrationFile
from agent.memory.claims import Claims
from agent.memory.residents import Residents, read_board
from agent.operating.power_mode import PowerMode
from agent.operating.watch import Watch
from agent.rpc.artifacts import ArtifactService
from agent.rpc.device import DeviceFacts, DeviceService
from agent.rpc.inference import InferenceService
from agent.rpc.jobs import JobService
from agent.rpc.server import Server, Servicers
from agent.service_manager import ServiceManager
from agent.serving import last_served
from agent.serving.adapters import Adapters
from agent.serving.host import HostMeans, ModelHost
from agent.serving.last_served import LastServed
from agent.serving.warm_start import warm_start
from agent.telemetry.circumstances import Observations
from agent.telemetry.conditions import conditions_of
from agent.telemetry.recorder import record
from agent.telemetry.ring import TelemetryRing
from agent.telemetry.sampler import WorkerStatus
from agent.version import VERSION, engines
from agent.workers import limits, orphans
from agent.workers.process import Launcher
from artifacts import durable
from artifacts.store import ArtifactStore
from jetson.memory import read_memory
from protos.errors import InternalError, NanofleetError
from protos.nanofleet.v1.artifact_pb2 import (
    ARTIFACT_KIND_BASE_MODEL,
    ARTIFACT_KIND_CHECKPOINT,
    ARTIFACT_KIND_DATASET,
)
from protos.nanofleet.v1.device_pb2 import DeviceEvent
from protos.nanofleet.v1.job_pb2 import GenerateProgress
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample, WorkerSample

if TYPE_CHECKING:
    from agent.telemetry.simulation import Wanted

_LOG = logging.getLogger(__name__)

# A sample, an upload and a download each keep a thread busy for milliseconds at a time.
_THREADS = 4
_OOM_SCORE = -500
_MIB = 1 << 20
# Of MemAvailable, where the settings name no floor: 2 % of the board.
_FLOOR_FRACTION = 0.02
_LEAST_FLOOR_BYTES = 48 << 20
_CALLS_GRACE_S = 2.0
_TELEMETRY_AGAIN_S = 10.0
# Artifacts that a fleet has sent and can send again. Adapters are results, and small.
_REPLACEABLE = frozenset(
    {ARTIFACT_KIND_BASE_MODEL, ARTIFACT_KIND_DATASET, ARTIFACT_KIND_CHECKPOINT}
)


class Agent:
    """All parts of a running agent. ``serve`` runs it to its end."""

    def __init__(
        self,
        config: Config,
        state: Path,
        credentials: identity.Credentials,
        simulated: "Wanted | None" = None,
    ) -> None:
        self._config = config
        clock = SystemClock()
        durable.tidy_up(state)
        self._ballast = Ballast(state)
        self._ballast.give_up_if_needed()
        orphans.sweep(state / "workers", clock.boot_id)
        machine = self._machine = Machine(state, config.telemetry, self._workers, simulated)
        self._store = ArtifactStore(
            state / "artifacts",
            reserve_bytes=config.artifacts.reserve_mib * _MIB,
            evicted=_REPLACEABLE,
        )
        journal = quarantine.opened(
            state / "journal.db",
            clock,
            retention.Limits(config.journal.keep_mib * _MIB, config.journal.most_mib * _MIB),
        )
        jobs = durable.make_folder(state / "jobs")
        self._ring = TelemetryRing(state / "telemetry.ring", config.telemetry.ring_mib * _MIB)
        conditions = partial(conditions_of, self._ring)
        recovery.recover(journal, self._store, jobs, clock.boot_id, conditions)
        self._records = Records(journal)
        self._watch = Watch(config.limits)
        power = config.power
        self._power = PowerMode(
            state, machine.root, clock.boot_id, power.mode, power.clocks == "max"
        )
        budget = _budget(config, machine.root)
        claims = Claims(
            budget,
            engine=config.inference.engine,
            # A GPU that nobody named may turn out to be of no use; its worker then counts it.
            shared_gpu=machine.board.is_jetson and config.training.device == "cuda",
            torch=torch_build.installed(),
            calibration=CalibrationFile(state / calibration_file.FILE, VERSION),
        )
        self._residents = Residents(
            claims,
            _policy(config, budget),
            read=lambda: read_board(machine.root),
            tell=self._tell,
            rest=self._watch.rest,
        )
        launcher = Launcher(state / "workers", clock.boot_id)
        engine = config.inference.engine
        adapters = Adapters(self._store, state / "adapters", named(engine).adapter_file)
        self._sampler = machine.sampler()
        self._observations = Observations(lambda: self._sampler.energy.total_j)
        serving_threads = config.inference.threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self._last_served = LastServed(state / last_served.FILE)
        self._host = ModelHost(
            HostMeans(
                store=self._store,
                launcher=launcher,
                adapters=adapters,
                log=state / "inference.log",
                context_length=config.inference.context_length,
                streams=config.inference.streams,
                threads=serving_threads,
                residents=self._residents,
                engine=engine,
                cache=state / "engine",
                limit=lambda: self._limit("inference"),
                last_served=self._last_served,
                tell=self._tell,
            )
        )
        self._residents.serve_with(self._host)
        means = Means(
            records=self._records,
            store=self._store,
            launcher=launcher,
            jobs=jobs,
            leases=Leases(clock),
            threads=config.training.threads,
            device=config.training.device,
            usable_bytes=budget.usable_bytes,
            energy_j=lambda: self._sampler.energy.total_j,
            is_simulated=bool(machine.simulated),
            observe=self._observations.begin,
            serves=any(engine.name == "llama" for engine in engines()),
            limit=self._limit,
            enter=self._residents.enter_job,
            leave=self._residents.leave_job,
            rest=self._watch.rest,
            without_effect=self._watch.without_effect,
            take_power=self._power.take,
            give_power_back=self._power.give_back,
            conditions=conditions,
            measured=self._residents.measured_job,
            above_bytes=lambda: self._residents.job_above_bytes,
            requested=self._host.presence.some,
            unrequested=self._host.presence.none,
            engine=engine,
            engine_cache=state / "engine",
            engine_threads=serving_threads,
        )
        self._runner = Runner(means)
        desk = Desk(
            self._records,
            self._store,
            self._runner,
            jobs,
            means.leases,
            claims.of_job,
        )
        rehearsals = Rehearsals(means, state / "rehearsal", self._runner.turn, desk.check)
        facts = DeviceFacts(
            name=credentials.identity.name,
            state=state,
            board=machine.board,
            engines=engines(),
            memory_budget_bytes=means.usable_bytes,
            zones=machine.zones,
            simulated=machine.simulated,
        )
        self._server = Server(
            Servicers(
                device=DeviceService(
                    facts,
                    clock,
                    self._records,
                    self._store,
                    self._host,
                    self._ring,
                    root=machine.root,
                ),
                artifacts=ArtifactService(self._store),
                jobs=JobService(desk, self._records, rehearsals),
                inference=InferenceService(self._host, adapters),
            ),
            credentials,
            state / identity.FOLDER,
        )
        self._manager = ServiceManager.of(os.environ)
        self._heartbeat = Heartbeat(
            self._manager, lambda: self._records.read(journal.newest_seq), self._job_silent_s
        )
        self._ballast.restore()

    async def serve(self, ready: Callable[[int], None]) -> None:
        """Listens, calls ``ready`` with the port, and runs until SIGTERM or SIGINT."""
        stop = _stop_signal()
        tasks: list[asyncio.Task[object]] = []

        def started(work: Coroutine[object, object, object], name: str) -> asyncio.Task[object]:
            tasks.append(asyncio.create_task(work, name=name))
            return tasks[-1]

        try:
            port = await self._server.start(self._config.listen)
            jobs = started(self._run_jobs(), "jobs")
            started(self._telemetry(), "telemetry")
            started(self._ballast.keep(), "ballast")
            started(self._residents.run(), "arbiter")
            started(self._machine.run(), "machine")
            started(self._records.keep_room(), "retention")
            started(self._heartbeat.run(), "heartbeat")
            asked = started(stop.wait(), "signal")
            warm = started(self._warm_start(), "warm start")
            ready(port)
            self._manager.ready(f"listens on port {port}")
            await asyncio.wait((jobs, asked), return_when=asyncio.FIRST_COMPLETED)
            _LOG.info("stopping")
            self._manager.stopping()
            await self._server.stop(_CALLS_GRACE_S)
            await self._runner.stop(Patience(), self._manager.still_stopping)
            warm.cancel()
            await asyncio.wait((warm,))
            await self._host.close()
            await jobs
        finally:
            await self._server.stop(0)
            await _ended(tasks)
            self._ring.close()
            await self._records.close()

    async def _run_jobs(self) -> None:
        """After what an agent that died has left of a job's power mode."""
        for said in await self._power.give_back():
            _LOG.warning("%s", said)
        await self._runner.run()

    async def _telemetry(self) -> None:
        """A sensor that breaks must not take the jobs with it."""
        while True:
            try:
                await record(
                    self._sampler,
                    self._ring,
                    observe=self._observe,
                    period_s=self._config.telemetry.period_s,
                )
            except Exception:  # noqa: BLE001 - whatever it is, telemetry starts again
                _LOG.exception("telemetry failed; it starts again in %.0f s", _TELEMETRY_AGAIN_S)
            await asyncio.sleep(_TELEMETRY_AGAIN_S)

    def _observe(self, sample: TelemetrySample) -> None:
        self._observations.add(sample)
        self._watch.add(sample)

    async def _warm_start(self) -> None:
        if self._config.inference.warm_start:
            try:
                await warm_start(self._host, self._last_served, self._tell)
            except Exception:  # noqa: BLE001 - whatever it is, requests load models themselves
                _LOG.exception("the model that was served last could not be loaded")

    async def _tell(self, event: DeviceEvent) -> None:
        """A full disk must not hold up what was decided."""
        try:
            await self._records.write(self._records.journal.device.add, event)
        except NanofleetError as error:
            _LOG.warning("%s is not among the device's events: %s", event.act, error)

    def _limit(self, worker: str) -> limits.Group | None:
        """A control group as large as what all workers may use."""
        return self._machine.limit(worker, self._residents.claims.budget.usable_bytes)

    def _job_silent_s(self) -> float | None:
        attempt = self._runner.current
        return attempt.silent_s if attempt is not None else None

    def _workers(self) -> Sequence[WorkerStatus]:
        """For the sampler, in its thread: what is read here is replaced, never changed."""
        found = []
        attempt = self._runner.current
        if attempt is not None and (pid := attempt.pid):
            found.append(_job_status(attempt, pid))
        if pid := self._host.pid:
            found.append(
                WorkerStatus(
                    kind=WorkerSample.KIND_INFERENCE, pid=pid, tokens_per_s=self._host.tokens_per_s
                )
            )
        return found


def _job_status(attempt: Attempt, pid: int) -> WorkerStatus:
    now = attempt.notes.progress
    status = WorkerStatus(
        kind=attempt.worker_kind,
        pid=pid,
        tokens_per_s=attempt.notes.tokens_per_s,
        job_id=attempt.job_id,
    )
    if isinstance(now, GenerateProgress):
        step, total_steps, loss = now.prompts, now.total_prompts, None
    else:
        step, total_steps, loss = now.step, now.total_steps, now.loss
    if not step:
        return status
    return replace(
        status, step=step, total_steps=total_steps, loss=loss, time_to_go_s=now.time_to_go_s
    )


def run(config: Config, state: Path, simulated: "Wanted | None" = None) -> None:
    """Runs the agent in this thread until it is told to stop; on this machine, or on the board
    that is ``simulated``."""
    durable.make_folder(state)
    lock = StateLock(state)
    try:
        asyncio.run(_main(config, state, lock, simulated))
    finally:
        lock.close()


async def _main(config: Config, state: Path, lock: StateLock, simulated: "Wanted | None") -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    credentials = identity.load(state / identity.FOLDER)
    _protect_from_oom_killer()
    agent = Agent(config, state, credentials, simulated)

    def ready(port: int) -> None:
        host = config.listen.host
        lock.tell(f"{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}")
        name = credentials.identity.name
        board = f", simulating {simulated.board}" if simulated else ""
        print(f"nanofleet-agent {VERSION} ready: {name} on {host}:{port}{board}", flush=True)

    await agent.serve(ready)


async def _ended(tasks: Sequence[asyncio.Task[object]]) -> None:
    """What still runs is cancelled: none of it may find the journal closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _budget(config: Config, root: Path) -> Budget:
    memory = read_memory(root)
    if memory is None:
        raise InternalError("The memory of this machine cannot be read.", fix="Is /proc mounted?")
    reserve_bytes = config.memory.reserve_mib * _MIB or None
    return Budget.measured(memory, reserve_bytes, config.memory.most_mib * _MIB)


def _policy(config: Config, budget: Budget) -> Policy:
    floor_bytes = config.memory.floor_mib * _MIB
    return Policy(
        floor_bytes or max(_LEAST_FLOOR_BYTES, int(budget.total_bytes * _FLOOR_FRACTION)),
        quiet_s=config.inference.quiet_s,
        idle_s=config.inference.idle_s,
    )


def _protect_from_oom_killer() -> None:
    """Needs root; without it the raised score of the workers has to do."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
