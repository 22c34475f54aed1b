"""Why a training worker gave up, as a typed cause and one sentence for people.

    what was raised                                cause          retried by the agent?
    ─────────────────────────────────────────────────────────────────────────────────
    TrainingFailure                                its own
    InvalidDataset                                 BAD_DATA       no
    InvalidRequest, NotFound, Refused              BAD_SPEC       no
    DiskFull, OSError ENOSPC or EDQUOT             DISK_FULL      once there is space
    MemoryError, torch's allocation errors         OOM            with a smaller recipe
    DiskFailed, OSError EIO or EROFS               WORKER_CRASH   a few times
    anything else                                  WORKER_CRASH   a few times

The traceback goes to stderr, which is the worker's log; the agent and the user get the sentence.
"""

import errno

from artifacts import headroom
from protos.errors import (
    DiskFull,
    InvalidDataset,
    InvalidRequest,
    NanofleetError,
    NotFound,
    Refused,
)
from protos.nanofleet.v1 import job_pb2, worker_pb2

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# torch raises a bare RuntimeError when the CPU's memory is exhausted; only the text tells.
# On Jetson boards torch's allocator trips over an assertion instead.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "cannot allocate memory",
    "nvml_success == r internal assert failed",
)
_SMALLER = "Lower sequence_length, rank or stored_layers, or free memory on the device."


class TrainingFailure(Exception):
    """The attempt ends with this cause; ``message`` says what happened, why, and what to do."""

    def __init__(self, cause: job_pb2.Cause.ValueType, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


def bad_spec(message: str) -> TrainingFailure:
    return TrainingFailure(job_pb2.CAUSE_BAD_SPEC, message)


def bad_data(message: str) -> TrainingFailure:
    return TrainingFailure(job_pb2.CAUSE_BAD_DATA, message)


def bad_line(dataset: str, line: int, message: str) -> TrainingFailure:
    """Something is wrong with the sample in this line (counted from 1) of what is called so."""
    return bad_data(f"{dataset}:{line}: {message}")


def explain(error: BaseException) -> worker_pb2.WorkerFailed:
    """The report for what was raised."""
    if isinstance(error, TrainingFailure):
        return _failed(error.cause, error.message)
    if isinstance(error, InvalidDataset):
        return _failed(job_pb2.CAUSE_BAD_DATA, str(error))
    if isinstance(error, InvalidRequest | NotFound | Refused):
        return _failed(job_pb2.CAUSE_BAD_SPEC, str(error))
    if isinstance(error, DiskFull):
        return _failed(job_pb2.CAUSE_DISK_FULL, str(error))
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return _failed(job_pb2.CAUSE_DISK_FULL, _disk_full(error))
    if isinstance(error, OSError):
        error = headroom.fault(error, "The device's disk") or error
    if isinstance(error, NanofleetError):
        return _failed(job_pb2.CAUSE_WORKER_CRASH, str(error))
    if _is_out_of_memory(error):
        return _failed(job_pb2.CAUSE_OOM, f"Training ran out of memory. {_SMALLER}")
    return _failed(
        job_pb2.CAUSE_WORKER_CRASH,
        f"Training ended with an unexpected {type(error).__name__}: {_first_line(error)}. "
        "The attempt's log has the details.",
    )


def _failed(cause: job_pb2.Cause.ValueType, message: str) -> worker_pb2.WorkerFailed:
    return worker_pb2.WorkerFailed(cause=cause, message=message)


def _disk_full(error: OSError) -> str:
    where = f" while writing {error.filename}" if error.filename else ""
    return f"The disk became full{where}. Free space on the device, then `nanofleet job resume`."


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"
