"""Who holds the board's memory: the training job, the served model, or both.

A job is admitted when it would fit the board alone, because it may wait for its turn. What happens
from then on is decided by arbiter.py; this is its hands and eyes: it looks at the board, asks for a
decision, and carries it out, one after another, until there is nothing to decide. It does so when
somebody comes for memory, and once a second.

    enter_job, enter_model ──▶ observe ─▶ decide ─▶ carry out ─▶ observe …    granted, or refused

What each of them will take is its claim (claims.py).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from async_timeout import timeout

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
from agent.memory.budget import Claim
from agent.memory.calibration import measured_bytes
from agent.memory.claims import SERVED, Claims
from jetson.memory import read_memory, read_pressure_percent
from protos.errors import OutOfMemory
from protos.nanofleet.v1.device_pb2 import DeviceEvent
from protos.nanofleet.v1.job_pb2 import JobSpec

_LOG = logging.getLogger(__name__)

_PERIOD_S = 1.0
# In a row, without a look at anything else.
_MOST_DECISIONS = 8


_OF_THE_MODEL = (Act.LOAD_MODEL, Act.REFUSE_MODEL, Act.UNLOAD_MODEL)

# Takes an event of the device: where people find it.
Tell: TypeAlias = Callable[[DeviceEvent], Awaitable[None]]


async def tell_nobody(event: DeviceEvent) -> None:
    """Where nothing is journalled."""


class Trainee(Protocol):
    """What holds a job's memory: an attempt, or a rehearsal."""

    @property
    def yields(self) -> bool:
        """Whether it makes room for a request."""
        ...

    async def suspend(self) -> None:
        """Returns when it has given back what it computes in, or has ended."""

    async def resume(self) -> None: ...

    async def vacate(self) -> None:
        """Lets it write a checkpoint and end, as long as it gets somewhere; returns when its
        process is gone."""

    async def tell(self, decision: Decision) -> None:
        """For the job's journal."""

    async def tell_waiting(self, why: str) -> None:
        """The same, of one that is not begun yet."""


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
    spec: JobSpec
    phase: Phase = Phase.WAITING
    rested: bool = False
    refusal: str = ""
    left: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Wanted:
    claim: Claim
    is_asked: bool
    is_granted: bool = False
    refusal: str = ""


class Residents:
    """``read`` looks at the board; ``rest`` says why a job must not compute now. All in the running
    loop."""

    def __init__(
        self,
        claims: Claims,
        policy: Policy = Policy(floor_bytes=0),  # noqa: B008  # frozen
        read: Callable[[], Reading] = read_board,
        tell: Tell = tell_nobody,
        rest: Callable[[JobSpec], str] = lambda spec: "",
    ) -> None:
        self.claims = claims
        self._policy = policy
        self._read = read
        self._tell = tell
        self._rest = rest
        self._training: _Training | None = None
        self._model: Claim | None = None
        self._wanted: _Wanted | None = None
        self._server: Server | None = None
        self._lock = asyncio.Lock()  # one decision at a time
        self._changed = asyncio.Event()

    def serve_with(self, server: Server) -> None:
        self._server = server

    async def run(self) -> None:
        """Looks after the board until cancelled."""
        try:
            while True:
                try:
                    await self._settle()
                except Exception:  # noqa: BLE001 - whatever it is, the board must be looked after
                    _LOG.exception("the arbiter could not carry out a decision")
                await asyncio.to_thread(self.claims.keep)
                await self._wait()
        finally:
            self.claims.keep()

    async def enter_job(self, path: Path, spec: JobSpec, trainee: Trainee) -> None:
        """Returns when the job may take its memory; raises OutOfMemory when it never can."""
        claim = await asyncio.to_thread(self.claims.of_job, path, spec)
        entered = self._training = _Training(claim, trainee, spec)
        told = ""
        try:
            while entered.phase is Phase.WAITING:
                await self._settle()
                if entered.refusal:
                    raise OutOfMemory(f"There is no memory for {claim.owner}.", why=entered.refusal)
                if entered.phase is Phase.WAITING:
                    told = await self._tell_waiting(entered, told)
                    await self._wait()
        except BaseException:
            self.leave_job()
            raise

    async def _tell_waiting(self, waiting: _Training, told: str) -> str:
        """Why it waits: once, and again when it is for a rest then. Returns what was told last."""
        seen = await self._observed()
        if told and not (seen.rest and told != seen.rest):
            return told
        why = waits_for(seen, self._policy)
        _LOG.info("%s: %s", waiting.claim.owner, why)
        if seen.rest:
            waiting.rested = True
            await waiting.trainee.tell_waiting(why)
        return why

    def leave_job(self) -> None:
        """Its worker is gone."""
        if self._training is not None:
            self._training.left.set()
        self._training = None
        self._changed.set()

    def measured_job(self, anonymous_bytes: int) -> None:
        """What the running job was seen to take."""
        if self._training is not None:
            self._training.claim = self.claims.measured(self._training.claim, anonymous_bytes)

    async def enter_model(
        self, path: Path, digest: str, context_length: int, *, is_asked: bool = True
    ) -> None:
        """Returns when the model may be loaded; raises OutOfMemory when there is no room for it
        now, whoever yields. Where nobody asked for it, no job does."""
        claim = await asyncio.to_thread(self.claims.of_model, path, digest, context_length)
        wanted = self._wanted = _Wanted(claim, is_asked)
        try:
            while not wanted.is_granted:
                await self._settle()
                if wanted.refusal:
                    held = [self._training.claim] if self._training else []
                    self.claims.of_model(path, digest, context_length, held)
                    raise OutOfMemory(
                        f"There is not enough memory for {SERVED} now.",
                        why=wanted.refusal,
                        fix="Try again later, or free memory on the device.",
                    )
                if not wanted.is_granted:
                    await self._wait()
        finally:
            self._wanted = None

    def measured_model(self, anonymous_bytes: int) -> None:
        """What the loaded model was seen to take."""
        if self._model is not None:
            self._model = self.claims.measured(self._model, anonymous_bytes)

    @property
    def job_above_bytes(self) -> int:
        """What the running job is expected to take beyond its forecast, as others did."""
        return measured_bytes(self._training.claim.forecast) if self._training else 0

    @property
    def model_claim(self) -> Claim | None:
        return self._model

    def leave_model(self) -> None:
        """Its worker is gone."""
        self._model = None
        self._changed.set()

    async def _settle(self) -> None:
        """Decides and carries out until nothing is left to decide."""
        async with self._lock:
            for _ in range(_MOST_DECISIONS):
                seen = await self._observed()
                decision = decide(seen, self._policy)
                if decision is None:
                    return
                await self._carry_out(decision, seen)

    async def _observed(self) -> Observation:
        reading = await asyncio.to_thread(self._read)
        training, wanted, model = self._training, self._wanted, None
        if self._model is not None and self._server is not None:
            model = Model(self._model, self._server.busy, self._server.quiet_s)
        job, rest = None, ""
        if training is not None:
            yields = training.trainee.yields
            job = Job(training.claim, training.phase, yields, training.rested)
            rest = self._rest(training.spec)
        return Observation(
            self.claims.budget,
            reading.available_bytes,
            reading.pressure_percent,
            job,
            model,
            wanted.claim if wanted and not wanted.is_granted and not wanted.refusal else None,
            wanted.is_asked if wanted else True,
            rest,
        )

    async def _carry_out(self, decision: Decision, seen: Observation) -> None:
        _LOG.info("%s: %s", decision.act.value, decision.reason)
        training, wanted = self._training, self._wanted
        if decision.act in _OF_THE_MODEL:
            model = self._model if decision.act is Act.UNLOAD_MODEL else wanted and wanted.claim
            digest = model.base_digest if model else ""
            await self._tell(
                DeviceEvent(act=decision.act.value, reason=decision.reason, base_digest=digest)
            )
        match decision.act:
            case Act.LOAD_MODEL if wanted:
                self._model, wanted.is_granted = wanted.claim, True
            case Act.REFUSE_MODEL if wanted:
                wanted.refusal = decision.reason
            case Act.UNLOAD_MODEL if self._server:
                await self._server.unload_idle(decision.reason)
            case Act.START_JOB if training:
                if training.rested:
                    await training.trainee.tell(decision)
                training.phase, training.rested = Phase.RUNNING, False
            case Act.REFUSE_JOB if training:
                training.refusal = decision.reason
                self._training = None
            case Act.SUSPEND_JOB if training:
                await training.trainee.tell(decision)
                await training.trainee.suspend()
                training.phase, training.rested = Phase.SUSPENDED, bool(seen.rest)
            case Act.RESUME_JOB if training:
                await training.trainee.tell(decision)
                training.phase, training.rested = Phase.RUNNING, False
                await training.trainee.resume()
            case Act.STOP_JOB if training:
                await training.trainee.tell(decision)
                await training.trainee.vacate()
                await training.left.wait()

    async def _wait(self) -> None:
        """Until something changes, or a second has passed."""
        self._changed.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            async with timeout(_PERIOD_S):
                await self._changed.wait()
