"""Who holds the board's memory: the training job, the served model, or both.

A job is admitted when it would fit the board alone, because it may wait for its turn. What happens
from then on is decided by arbiter.py; this is its hands and eyes: it looks at the board, asks for a
decision, and carries it out, one after another, until there is nothing to decide. It does so when
somebody comes for memory, and once a second.

    enter_job, enter_model ──▶ observe ─▶ decide ─▶ carry out ─▶ observe …    granted, or refused

What a worker turns out to take beyond its forecast is remembered for the next one on that base.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.memory.admission import admit_inference, admit_training
from agent.memory.arbiter import (
    Act,
    Decision,
    Job,
    Model,
    Observation,
    Phase,
    Policy,
    decide,
    waits_for,
)
from agent.memory.budget import Budget, Claim
from agent.memory.forecast import Part
from agent.memory.processor import CPU, least_element_bytes
from artifacts import base_model
from jetson.memory import read_memory, read_pressure_percent
from protos.errors import OutOfMemory
from protos.nanofleet.v1.job_pb2 import TrainSpec

_LOG = logging.getLogger(__name__)

_SERVED = "the served model"
_JOB, _MODEL = "job", "model"
_PERIOD_S = 1.0
# For a checkpoint and the worker's end; then it is killed, and goes on at the checkpoint before.
_STOP_S = 60.0
# In a row, without a look at anything else.
_MOST_DECISIONS = 8


class Trainee(Protocol):
    """What holds a job's memory: an attempt, or a rehearsal."""

    @property
    def yields(self) -> bool:
        """Whether it makes room for a request."""
        ...

    async def suspend(self) -> None:
        """Returns when it has given back what it computes in, or has ended."""

    async def resume(self) -> None: ...

    async def stop(self) -> None:
        """Asks it to write a checkpoint and end."""

    def kill(self) -> None: ...

    async def tell(self, decision: Decision) -> None:
        """For the job's journal."""


class Server(Protocol):
    """What holds the served model's memory."""

    @property
    def busy(self) -> bool:
        """Whether requests run or wait, or the model is being loaded or unloaded."""
        ...

    @property
    def quiet_s(self) -> float:
        """Since the last request ended."""
        ...

    async def unload_idle(self, why: str) -> None:
        """Unloads the model unless a request has come in between."""


@dataclass(frozen=True, slots=True)
class Reading:
    available_bytes: int
    pressure_percent: float | None


def read_board(root: Path = Path("/")) -> Reading:
    memory = read_memory(root)
    return Reading(memory.available_bytes if memory else 0, read_pressure_percent(root))


@dataclass(slots=True)
class _Training:
    claim: Claim
    trainee: Trainee
    phase: Phase = Phase.WAITING
    refusal: str = ""
    left: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Wanted:
    claim: Claim
    is_granted: bool = False
    refusal: str = ""


class Residents:
    """``read`` looks at the board; ``engine``: that which serves. ``admit_job`` and ``admit_model``
    may be called from any thread, all else in the running loop."""

    def __init__(
        self,
        budget: Budget,
        policy: Policy = Policy(floor_bytes=0),  # noqa: B008  # frozen
        read: Callable[[], Reading] = read_board,
        cpu: Path = CPU,
        engine: str = "llama",
        shared_gpu: bool = False,
    ) -> None:
        self.budget = budget
        self._policy = policy
        self._read = read
        self._cpu = cpu
        self._engine = engine
        self._shared_gpu = shared_gpu
        self._training: _Training | None = None
        self._model: Claim | None = None
        self._wanted: _Wanted | None = None
        self._server: Server | None = None
        self._lock = asyncio.Lock()  # one decision at a time
        self._changed = asyncio.Event()
        # Bytes that were measured above the forecast, by what took them and its base.
        self._above: dict[tuple[str, str], int] = {}

    def serve_with(self, server: Server) -> None:
        self._server = server

    async def run(self) -> None:
        """Looks after the board until cancelled."""
        while True:
            try:
                await self._settle()
            except Exception:  # noqa: BLE001 - whatever it is, the board must be looked after
                _LOG.exception("the arbiter could not carry out a decision")
            await self._wait()

    def admit_job(self, path: Path, train: TrainSpec) -> None:
        """Raises OutOfMemory for a recipe that cannot run on this board at all."""
        self._admitted(path, train, "the job")

    async def enter_job(self, path: Path, train: TrainSpec, name: str, trainee: Trainee) -> None:
        """Returns when the job may take its memory; raises OutOfMemory when it never can."""
        owner = f"the training job {name}"
        claim = await asyncio.to_thread(self._job_claim, path, train, owner)
        entered = self._training = _Training(claim, trainee)
        told = False
        try:
            while entered.phase is Phase.WAITING:
                await self._settle()
                if entered.refusal:
                    raise OutOfMemory(f"There is no memory for {owner}.", why=entered.refusal)
                if entered.phase is Phase.WAITING:
                    if not told:
                        _LOG.info("%s: %s", owner, waits_for(await self._observed(), self._policy))
                        told = True
                    await self._wait()
        except BaseException:
            self.leave_job()
            raise

    def leave_job(self) -> None:
        """Its worker is gone."""
        if self._training is not None:
            self._training.left.set()
        self._training = None
        self._changed.set()

    def measured_job(self, anonymous_bytes: int) -> None:
        """What the running job was seen to take."""
        if self._training is not None:
            self._training.claim = self._calibrated(_JOB, self._training.claim, anonymous_bytes)

    async def enter_model(self, path: Path, digest: str, context_length: int) -> None:
        """Returns when the model may be loaded; raises OutOfMemory when there is no room for it
        now, whoever yields."""
        claim = await asyncio.to_thread(self.admit_model, path, digest, context_length)
        wanted = self._wanted = _Wanted(claim)
        try:
            while not wanted.is_granted:
                await self._settle()
                if wanted.refusal:
                    held = self._training.claim if self._training else None
                    admit = (self.budget, base_model.read(path), digest, context_length)
                    beside = [held] if held else []
                    admit_inference(*admit, beside, owner=_SERVED, engine=self._engine)
                    raise OutOfMemory(
                        f"There is not enough memory for {_SERVED} now.",
                        why=wanted.refusal,
                        fix="Try again later, or free memory on the device.",
                    )
                if not wanted.is_granted:
                    await self._wait()
        finally:
            self._wanted = None

    def admit_model(self, path: Path, digest: str, context_length: int) -> Claim:
        """Its claim, if the board alone has room for it; raises OutOfMemory."""
        model = base_model.read(path)
        claim = admit_inference(
            self.budget, model, digest, context_length, owner=_SERVED, engine=self._engine
        )
        return self._with_known(_MODEL, claim)

    def measured_model(self, anonymous_bytes: int) -> None:
        """What the loaded model was seen to take."""
        if self._model is not None:
            self._model = self._calibrated(_MODEL, self._model, anonymous_bytes)

    def leave_model(self) -> None:
        """Its worker is gone."""
        self._model = None
        self._changed.set()

    def _job_claim(self, path: Path, train: TrainSpec, owner: str) -> Claim:
        return self._with_known(_JOB, self._admitted(path, train, owner))

    def _admitted(self, path: Path, train: TrainSpec, owner: str) -> Claim:
        base = base_model.read(path)
        least = least_element_bytes(base.embedding_length, self._cpu)
        return admit_training(
            self.budget,
            base,
            train,
            owner=owner,
            least_element_bytes=least,
            shared_gpu=self._shared_gpu,
        )

    def _with_known(self, kind: str, claim: Claim) -> Claim:
        """With what was measured above the forecast on this base before."""
        return _larger(claim, self._above.get((kind, claim.base_digest), 0))

    def _calibrated(self, kind: str, claim: Claim, measured_bytes: int) -> Claim:
        """Never below the forecast: the longest sample may be yet to come."""
        above = max(0, measured_bytes - claim.forecast.anonymous_bytes)
        key = (kind, claim.base_digest)
        self._above[key] = self._above.get(key, 0) + above
        return _larger(claim, above)

    async def _settle(self) -> None:
        """Decides and carries out until nothing is left to decide."""
        async with self._lock:
            for _ in range(_MOST_DECISIONS):
                decision = decide(await self._observed(), self._policy)
                if decision is None:
                    return
                await self._carry_out(decision)

    async def _observed(self) -> Observation:
        reading = await asyncio.to_thread(self._read)
        training, wanted, model = self._training, self._wanted, None
        if self._model is not None and self._server is not None:
            model = Model(self._model, self._server.busy, self._server.quiet_s)
        return Observation(
            self.budget,
            reading.available_bytes,
            reading.pressure_percent,
            Job(training.claim, training.phase, training.trainee.yields) if training else None,
            model,
            wanted.claim if wanted and not wanted.is_granted and not wanted.refusal else None,
        )

    async def _carry_out(self, decision: Decision) -> None:
        _LOG.info("%s: %s", decision.act.value, decision.reason)
        training, wanted = self._training, self._wanted
        match decision.act:
            case Act.LOAD_MODEL if wanted:
                self._model, wanted.is_granted = wanted.claim, True
            case Act.REFUSE_MODEL if wanted:
                wanted.refusal = decision.reason
            case Act.UNLOAD_MODEL if self._server:
                await self._server.unload_idle(decision.reason)
            case Act.START_JOB if training:
                training.phase = Phase.RUNNING
            case Act.REFUSE_JOB if training:
                training.refusal = decision.reason
                self._training = None
            case Act.SUSPEND_JOB if training:
                await training.trainee.tell(decision)
                await training.trainee.suspend()
                training.phase = Phase.SUSPENDED
            case Act.RESUME_JOB if training:
                await training.trainee.tell(decision)
                training.phase = Phase.RUNNING
                await training.trainee.resume()
            case Act.STOP_JOB if training:
                await training.trainee.tell(decision)
                await self._stop(training)

    async def _stop(self, training: _Training) -> None:
        await training.trainee.stop()
        try:
            await asyncio.wait_for(training.left.wait(), _STOP_S)
        except asyncio.TimeoutError:
            training.trainee.kill()
            await training.left.wait()

    async def _wait(self) -> None:
        """Until something changes, or a second has passed."""
        self._changed.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _PERIOD_S)


def _larger(claim: Claim, more_bytes: int) -> Claim:
    if more_bytes <= 0:
        return claim
    forecast = claim.forecast
    above = Part("measured above the forecast", more_bytes)
    return replace(claim, forecast=replace(forecast, anonymous=(*forecast.anonymous, above)))
