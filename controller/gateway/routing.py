"""Which device answers a request, and why each other one does not. Pure.

A device must be selected, be reachable, have an engine for it and hold the base model: a gigabyte
is not sent while somebody waits. Of those, the one where the answer begins soonest. What keeps it
waiting is counted in requests that would be answered meanwhile:

    requests that wait there or are answered, these of ours included    1 each
    its model is not in memory                                          4: it is read first
    another model is, and nobody uses it                                6: it is unloaded, too
    another model is, and is being used                               100: it would refuse
    the adapter has to be sent there                                    2
    a job is on it                                                      1
    the conversation's beginning was read there                        -2: it need not be again

So a second device loads the model when the first has four requests more, and a conversation leaves
its device for one that has three fewer. Between equals the name decides: the same fleet gives the
same answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from controller import facts
from controller.gateway.errors import NO_DEVICE
from controller.placement import INFERENCE_ENGINE, Ground, Rejection, listed
from controller.records import Sighting
from controller.selector import Selector
from protos.errors import NanofleetError, NotFound, Refused, Unreachable
from protos.nanofleet.v1 import device_pb2

NOT_LOADED = 4
OTHER_LOADED = 6
OTHER_USED = 100
SENT = 2
JOB = 1
WARM = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device as it was last seen. ``requests`` are there, by what is known here; ``is_warm``: the
    beginning of the conversation was read there."""

    sighting: Sighting
    requests: int = 0
    is_warm: bool = False

    @property
    def name(self) -> str:
        return self.sighting.status.record.name


@dataclass(frozen=True, slots=True)
class Wanted:
    """``base`` and ``adapter`` are digests; without an adapter it is empty."""

    base: str
    adapter: str = ""
    selector: Selector = field(default_factory=lambda: Selector(()))


@dataclass(frozen=True, slots=True)
class Route:
    """``device`` is empty when no device can answer. One without the adapter gets it with the
    question (controller/supplying.py)."""

    device: str
    rejections: tuple[Rejection, ...]


def choose(wanted: Wanted, candidates: Sequence[Candidate]) -> Route:
    judged = [(candidate, _rejection(wanted, candidate)) for candidate in candidates]
    rejected = tuple(no for _, no in judged if no is not None)
    fit = [candidate for candidate, no in judged if no is None]
    if not fit:
        return Route("", rejected)
    best = min(fit, key=lambda candidate: (cost(wanted, candidate), candidate.name))
    return Route(best.name, rejected)


def cost(wanted: Wanted, candidate: Candidate) -> int:
    """How long the answer is in coming, in requests that are answered meanwhile."""
    device = candidate.sighting.status.device or device_pb2.Device()
    return (
        candidate.requests
        + _loading(wanted, candidate, device)
        + SENT * _lacks_adapter(wanted, candidate)
        + JOB * bool(device.active_jobs)
        - WARM * candidate.is_warm
    )


def refusal(model: str, rejections: Sequence[Rejection]) -> NanofleetError:
    """The error when no device can answer; ``model`` as it was asked for."""
    if not rejections:
        return NotFound(
            "The fleet has no device.",
            fix="Add one: `nanofleet device token NAME`.",
            reason=NO_DEVICE,
        )
    meant = [no for no in rejections if no.ground is not Ground.MISMATCH]
    if not meant:
        return NotFound(
            "The selector selects no device of the fleet.",
            why=listed(rejections),
            fix="Ask for other labels, or leave the selector out.",
            reason="NO_DEVICE_SELECTED",
            field="model",
        )
    if all(no.ground is Ground.AWAY for no in meant):
        return Unreachable(
            f"No device that could answer with {model} can be reached.",
            why=listed(meant),
            fix="Ask again when one is back.",
        )
    return Refused(
        f"No device can answer with {model}.",
        why=listed(meant),
        fix=f"Send the model to one: `nanofleet artifact push {model.partition(':')[0]} DEVICE`.",
        reason=NO_DEVICE,
    )


def _rejection(wanted: Wanted, candidate: Candidate) -> Rejection | None:
    """Why the device cannot answer; None when it can."""
    status, name = candidate.sighting.status, candidate.name
    if wanted.selector.terms:  # the facts of a thousand devices take 20 ms
        failing = wanted.selector.failing(status.record.labels, facts.of_status(status))
        if failing is not None:
            return Rejection(name, Ground.MISMATCH, f"does not match {failing.text}")
    if not status.reachable or status.device is None:
        return Rejection(name, Ground.AWAY, status.problem or "cannot be reached")
    if all(engine.name != INFERENCE_ENGINE for engine in status.device.engines):
        return Rejection(name, Ground.UNFIT, f"cannot generate: {INFERENCE_ENGINE} is missing")
    if wanted.base not in candidate.sighting.held:
        return Rejection(name, Ground.UNFIT, "does not have the base model")
    return None


def _loading(wanted: Wanted, candidate: Candidate, device: device_pb2.Device) -> int:
    loaded = device.loaded_model.base_digest
    if loaded == wanted.base:
        return 0
    if not loaded:
        return NOT_LOADED
    return OTHER_USED if candidate.requests else OTHER_LOADED


def _lacks_adapter(wanted: Wanted, candidate: Candidate) -> bool:
    return bool(wanted.adapter) and wanted.adapter not in candidate.sighting.held
