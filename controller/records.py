"""What the fleet's API returns: plain, frozen values. Times are UTC in nanoseconds, 0 is never."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from artifacts.record import Kind
from protos.identity import Identity, Role
from protos.nanofleet.v1 import artifact_pb2, device_pb2, job_pb2

# The enum's values, as type checkers know them; plain integers at run time.
State: TypeAlias = job_pb2.JobState.ValueType


def server_name(device: str, enrolment: str) -> str:
    """The DNS name that only the certificates of this one joining of the device carry.

    The controller demands it when it dials: a certificate of an earlier joining is thereby void.
    """
    return f"{enrolment}.{Identity(Role.DEVICE, device).dns_name}"


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device that has joined. ``address`` is "host:port"."""

    name: str
    address: str
    labels: Mapping[str, str]
    joined_utc_ns: int
    last_seen_utc_ns: int
    # The newest answer to GetDevice; None before the first.
    facts: device_pb2.Device | None = None
    # Which joining this is: the id of the token that was spent.
    enrolment: str = ""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device as it was just found. ``problem`` says why it is not reachable."""

    record: DeviceRecord
    reachable: bool
    device: device_pb2.Device | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device as it was just found, and the digests that it holds: of one that cannot be reached
    those that it held before."""

    status: DeviceStatus
    held: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Token:
    """A one-time invitation: ``nanofleet-agent join <text>``. ``text`` holds a secret."""

    text: str
    device: str
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who may ask the service over HTTP, without the secret. 0 never expires, 0 is not revoked."""

    id: str
    name: str
    role: Role
    created_utc_ns: int
    expires_utc_ns: int = 0
    revoked_utc_ns: int = 0

    def is_expired(self, utc_ns: int) -> bool:
        return 0 < self.expires_utc_ns <= utc_ns


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. ``text`` holds the secret, which is nowhere else."""

    text: str
    key: ApiKey


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """An artifact of the fleet's own store. ``name`` is empty when only its digest names it.

    ``details`` by kind: base model ``architecture``, ``file_type``, ``context_length``,
    ``parameters``, ``instruct``, ``source_digest``, ``warnings`` and, of a converted folder,
    ``proof`` (artifacts/convert/model.py); dataset ``shape``, ``samples``, ``characters``,
    ``warnings``; adapter ``base_digest``, ``source_digest``, ``rank``, ``created_utc_ns`` and, None
    where it was imported, ``dataset_digest``, ``job_id``, ``first_loss``, ``final_loss`` and
    ``steps``; of an imported one ``imported_from``, its folder's name, and ``warnings``.
    """

    name: str
    digest: str
    size_bytes: int
    kind: Kind
    details: Mapping[str, object] = field(default_factory=dict)
    # When its bytes came into the store, as far as the store was asked.
    added_utc_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far the import of a model is. ``total`` is 0 while it is not known."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """``moved_bytes`` counts from the start of the artifact, a resumed part included."""

    device: str
    digest: str
    moved_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer that is complete and verified. ``sent_bytes`` went over the network just now."""

    device: str
    digest: str
    size_bytes: int
    sent_bytes: int
    seconds: float
    already_there: bool


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as far as the controller knows.

    ``state`` is JOB_STATE_UNSPECIFIED while the job is assigned and the device has not yet
    confirmed it; ``refresh`` sends it again. ``job`` is the newest picture of it.
    """

    id: str
    name: str
    device: str
    generation: int
    state: State
    job: job_pb2.Job
    created_utc_ns: int

    @property
    def ended(self) -> bool:
        return self.state in ENDED


# A job in one of these stays in it.
ENDED = frozenset(
    {
        job_pb2.JOB_STATE_SUCCEEDED,
        job_pb2.JOB_STATE_FAILED,
        job_pb2.JOB_STATE_CANCELED,
    }
)

# Names of kinds, as people write them: in references ("adapter/persona") and in messages.
KIND_WORDS: Mapping[Kind, str] = {
    artifact_pb2.ARTIFACT_KIND_BASE_MODEL: "model",
    artifact_pb2.ARTIFACT_KIND_DATASET: "dataset",
    artifact_pb2.ARTIFACT_KIND_ADAPTER: "adapter",
    artifact_pb2.ARTIFACT_KIND_CHECKPOINT: "checkpoint",
}


@dataclass(frozen=True, slots=True)
class StageData:
    """What a recipe's stage needs to know of its dataset."""

    digest: str
    samples: int


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Of a job's rehearsal on a device: a check that has passed, at the end the plan; in between
    that it rests, or goes on."""

    device: str
    found: job_pb2.PlanCheck | job_pb2.JobPlan | job_pb2.Decided
