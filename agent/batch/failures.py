"""Why a batch generation gave up, as a typed cause and one sentence for people.

    what was raised                                cause          retried by the agent?
    ─────────────────────────────────────────────────────────────────────────────────
    InvalidDataset                                 BAD_DATA       no
    OutOfMemory, MemoryError                       OOM            no: nothing smaller is the same
    InvalidRequest, NotFound, Refused              BAD_SPEC       no
    DiskFull, OSError ENOSPC or EDQUOT             DISK_FULL      once there is space
    DiskFailed, OSError EIO or EROFS               WORKER_CRASH   a few times
    anything else                                  WORKER_CRASH   a few times

What is wrong with a single line is no failure: it is counted, see session.py.
"""

import errno

from artifacts import headroom
from protos.errors import (
    DiskFull,
    InvalidDataset,
    InvalidRequest,
    NanofleetError,
    NotFound,
    OutOfMemory,
    Refused,
)
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.worker_pb2 import WorkerFailed

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SMALLER = "Lower context_length, or free memory on the device."


def explain(error: BaseException) -> WorkerFailed:
    """The report for what was raised."""
    if isinstance(error, MemoryError):
        message = f"The generation ran out of memory. {_SMALLER}"
    elif isinstance(error, OSError) and error.errno in _NO_SPACE:
        message = "The disk became full. Free space on the device, then `nanofleet job resume`."
    elif isinstance(error, NanofleetError):
        message = str(error)
    elif isinstance(error, OSError) and (named := headroom.fault(error, "The device's disk")):
        message = str(named)
    else:
        message = (
            f"The generation ended with an unexpected {type(error).__name__}: {error}. "
            "The attempt's log has the details."
        )
    return WorkerFailed(cause=_cause(error), message=message)


def _cause(error: BaseException) -> "job_pb2.Cause.ValueType":
    if isinstance(error, InvalidDataset):
        return job_pb2.CAUSE_BAD_DATA
    if isinstance(error, OutOfMemory | MemoryError):
        return job_pb2.CAUSE_OOM
    if isinstance(error, InvalidRequest | NotFound | Refused):
        return job_pb2.CAUSE_BAD_SPEC
    if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return job_pb2.CAUSE_DISK_FULL
    return job_pb2.CAUSE_WORKER_CRASH
