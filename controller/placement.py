"""Which device gets a job, and why each other one does not. Pure.

A device must match, be reachable, be capable, and have the disk for what is missing there.
Of those that are left: the one with the fewest jobs before this one, then one that holds the base
model already (a gigabyte that need not travel), then the one with the most memory, then by name,
so that the same fleet gives the same answer.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller import facts
from controller.records import DeviceStatus
from controller.selector import Selector
from protos.errors import NanofleetError, NotFound, Refused, Unreachable
from protos.nanofleet.v1 import device_pb2

TRAINING_ENGINE = "torch"
INFERENCE_ENGINE = "llama"

# What a device cannot do without the engine.
_ABILITIES = {TRAINING_ENGINE: "train", INFERENCE_ENGINE: "generate"}

_LISTED = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device as it was just found. ``held`` are the digests of the job that it has already."""

    status: DeviceStatus
    held: frozenset[str] = frozenset()
    jobs_before: int = 0

    @property
    def name(self) -> str:
        return self.status.record.name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the job asks for. ``sizes`` are its artifacts, digest to bytes, the base model first."""

    device: str = ""
    selector: Selector = field(default_factory=lambda: Selector(()))
    sizes: Mapping[str, int] = field(default_factory=dict)
    # As in Device.capabilities: "train:lora", "base:gguf/q8_0", …
    capabilities: tuple[str, ...] = ()
    engine: str = TRAINING_ENGINE
    # Devices that have had the job: there it may have ended.
    had_it: frozenset[str] = frozenset()


class Ground(enum.Enum):
    """Why a device does not get a job, or a request to a model."""

    MISMATCH = "it is not asked for"
    AWAY = "it cannot be reached"
    UNFIT = "it cannot do that"
    BEHIND = "another one is better"


@dataclass(frozen=True, slots=True)
class Rejection:
    device: str
    ground: Ground
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """``device`` is empty when no device can have the job."""

    device: str
    rejections: tuple[Rejection, ...]


def choose(wanted: Wanted, candidates: Sequence[Candidate]) -> Placement:
    judged = [(candidate, _rejection(wanted, candidate)) for candidate in candidates]
    fit = sorted((c for c, no in judged if no is None), key=lambda c: _rank(wanted, c))
    rejected = [no for _, no in judged if no is not None]
    if not fit:
        return Placement("", tuple(rejected))
    behind = [Rejection(c.name, Ground.BEHIND, _behind(fit[0], c)) for c in fit[1:]]
    return Placement(fit[0].name, (*behind, *rejected))


def refusal(placement: Placement) -> NanofleetError:
    """The error for a placement without a device."""
    if not placement.rejections:
        return NotFound("The fleet has no device.", fix="Add one: `nanofleet device token NAME`.")
    asked_for = [no for no in placement.rejections if no.ground is not Ground.MISMATCH]
    if not asked_for:
        return Refused(
            "No device of the fleet is one that this job asks for.",
            why=listed(placement.rejections),
            fix="Change `device` or `selector` in the job file.",
            reason="NO_DEVICE",
        )
    if all(no.ground is Ground.AWAY for no in asked_for):
        return Unreachable(
            "No device for this job can be reached.",
            why=listed(asked_for),
            fix="The job was not sent: submit it again when a device is back.",
        )
    return Refused(
        "No device can have this job.",
        why=listed(asked_for),
        fix="Change `device` or `selector` in the job file, or free a device.",
        reason="NO_DEVICE",
    )


def listed(rejections: Sequence[Rejection]) -> str:
    """The reasons of a few; a large fleet says no in a few ways."""
    said = [f"{no.device}: {no.reason.rstrip('.')}" for no in rejections[:_LISTED]]
    more = [f"and {len(rejections) - _LISTED} more"] if len(rejections) > _LISTED else []
    return "; ".join((*said, *more)) + "."


def _rejection(wanted: Wanted, candidate: Candidate) -> Rejection | None:
    """Why the device cannot have the job; None when it can."""
    status, device = candidate.status, candidate.status.device
    if wanted.device and candidate.name != wanted.device:
        return Rejection(candidate.name, Ground.MISMATCH, f"is not {wanted.device}")
    if candidate.name in wanted.had_it:
        return Rejection(candidate.name, Ground.UNFIT, "has had the job already")
    failing = wanted.selector.failing(status.record.labels, facts.of_status(status))
    if failing is not None:
        return Rejection(candidate.name, Ground.MISMATCH, f"does not match {failing.text}")
    if not status.reachable or device is None:
        return Rejection(candidate.name, Ground.AWAY, status.problem or "cannot be reached")
    reason = _incapable(wanted, device) or _no_room(wanted, candidate, device)
    return Rejection(candidate.name, Ground.UNFIT, reason) if reason else None


def _incapable(wanted: Wanted, device: device_pb2.Device) -> str:
    if all(engine.name != wanted.engine for engine in device.engines):
        return f"cannot {_ABILITIES[wanted.engine]}: {wanted.engine} is not installed there"
    lacking = [word for word in wanted.capabilities if word not in device.capabilities]
    return f"its agent cannot do {', '.join(lacking)}" if lacking else ""


def _no_room(wanted: Wanted, candidate: Candidate, device: device_pb2.Device) -> str:
    missing = sum(size for digest, size in wanted.sizes.items() if digest not in candidate.held)
    if missing <= device.storage.free_bytes:
        return ""
    free = device.storage.free_bytes
    return f"has {free / 1e6:.0f} MB of free disk, and {missing / 1e6:.0f} MB have to go there"


def _rank(wanted: Wanted, candidate: Candidate) -> tuple[int, int, int, str]:
    device = candidate.status.device or device_pb2.Device()
    missing = sum(size for digest, size in wanted.sizes.items() if digest not in candidate.held)
    return (_jobs(candidate), missing, -device.memory_budget_bytes, candidate.name)


def _jobs(candidate: Candidate) -> int:
    """The longer of the two queues: what the device says, and what is assigned to it here."""
    reported = candidate.status.device.active_jobs if candidate.status.device else 0
    return max(reported, candidate.jobs_before)


def _behind(chosen: Candidate, other: Candidate) -> str:
    if _jobs(other) > _jobs(chosen):
        return f"has {_jobs(other)} jobs before this one, {chosen.name} has {_jobs(chosen)}"
    if len(other.held) < len(chosen.held):
        return f"would need files that {chosen.name} has already"
    return f"as good as {chosen.name}, or has less memory"
