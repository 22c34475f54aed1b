"""The errors of nanofleet: one tree, the same on both sides of the wire.

    NanofleetError
    ├── InvalidRequest          a field, flag or file content is wrong (names it)
    │   └── InvalidDataset      ... in a dataset (names file and line)
    ├── NotFound                a device, job, artifact or name that is not there
    ├── AlreadyExists           the same id with another content; a second `init`
    ├── Refused                 understood, and not allowed in the present state
    │   ├── InUse               the artifact is pinned; the port is taken
    │   ├── WrongBase           the adapter was trained on another base model
    │   ├── StaleGeneration     an older assignment of a job
    │   └── OutOfMemory         predicted not to fit (says what would)
    ├── OffsetMismatch          an upload does not start where the last one ended
    ├── DigestMismatch          the bytes are not what their name says
    ├── DiskFull                no headroom on the device
    ├── DiskFailed              the disk cannot be read or written: it is broken, or read-only
    ├── Busy                    a queue is full: try again after retry_after_s   (retryable)
    ├── Unauthenticated         no identity, or a token that is not (any more) valid
    ├── Forbidden               the identity's role does not include this
    ├── Unreachable             no connection, or it broke                       (retryable)
    ├── TimedOut                the deadline passed                              (retryable)
    ├── WorkerFailed            a worker process died or reported that it cannot go on
    └── InternalError           a defect of ours

Each carries what happened, why, and what to do about it. ``reason`` is stable and travels as
google.rpc.ErrorInfo (see protos/status.py); a more special one may be given to a single error.
"""

from typing import ClassVar


class NanofleetError(Exception):
    """What happened (``what``), why (``why``) and what to do (``fix``), each a sentence or empty.

    ``field`` names the wrong field of a request, ``retry_after_s`` how long to wait before the
    next try; both travel with the error.
    """

    default_reason: ClassVar[str] = "ERROR"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        reason: str = "",
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)


class InvalidRequest(NanofleetError):
    default_reason = "INVALID_REQUEST"


class InvalidDataset(InvalidRequest):
    default_reason = "INVALID_DATASET"


class NotFound(NanofleetError):
    default_reason = "NOT_FOUND"


class AlreadyExists(NanofleetError):
    default_reason = "ALREADY_EXISTS"


class Refused(NanofleetError):
    default_reason = "REFUSED"


class InUse(Refused):
    default_reason = "IN_USE"


class WrongBase(Refused):
    default_reason = "WRONG_BASE"


class StaleGeneration(Refused):
    default_reason = "STALE_GENERATION"


class OutOfMemory(Refused):
    default_reason = "OUT_OF_MEMORY"


class OffsetMismatch(NanofleetError):
    default_reason = "OFFSET_MISMATCH"


class DigestMismatch(NanofleetError):
    default_reason = "DIGEST_MISMATCH"


class DiskFull(NanofleetError):
    default_reason = "DISK_FULL"


class DiskFailed(NanofleetError):
    default_reason = "DISK_FAILED"


class Busy(NanofleetError):
    default_reason = "BUSY"
    retryable = True


class Unauthenticated(NanofleetError):
    default_reason = "UNAUTHENTICATED"


class Forbidden(NanofleetError):
    default_reason = "FORBIDDEN"


class Unreachable(NanofleetError):
    default_reason = "UNREACHABLE"
    retryable = True


class TimedOut(NanofleetError):
    default_reason = "TIMED_OUT"
    retryable = True


class WorkerFailed(NanofleetError):
    default_reason = "WORKER_FAILED"


class InternalError(NanofleetError):
    default_reason = "INTERNAL"


def tree() -> list[type[NanofleetError]]:
    """Every error type, parents before children."""
    found: list[type[NanofleetError]] = [NanofleetError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found
