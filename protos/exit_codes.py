"""With which code `nanofleet` and `nanofleet-agent` end, and which error leads to which.

    0    ok
    1    the job failed (or was canceled)
    2    usage: an argument, a flag or the content of a file is wrong
    3    a wait timed out
    4    the other side cannot be reached, or the two do not know each other
    5    refused: understood, and not possible in the present state
    130  interrupted with Ctrl-C

Scripts decide by these numbers, so they never change their meaning; docs/exit-codes.md has a
section for each. The table names every type of protos.errors: a new type without a code fails a
test instead of taking its parent's by accident.
"""

import enum
from collections.abc import Mapping

from protos import errors


class ExitCode(enum.IntEnum):
    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    TIMED_OUT = 3
    UNREACHABLE = 4
    REFUSED = 5
    INTERRUPTED = 130


CODES: Mapping[type[errors.NanofleetError], ExitCode] = {
    errors.NanofleetError: ExitCode.REFUSED,
    errors.InvalidRequest: ExitCode.USAGE,
    errors.InvalidDataset: ExitCode.USAGE,
    errors.NotFound: ExitCode.REFUSED,
    errors.AlreadyExists: ExitCode.REFUSED,
    errors.Refused: ExitCode.REFUSED,
    errors.InUse: ExitCode.REFUSED,
    errors.WrongBase: ExitCode.REFUSED,
    errors.StaleGeneration: ExitCode.REFUSED,
    errors.OutOfMemory: ExitCode.REFUSED,
    errors.OffsetMismatch: ExitCode.REFUSED,
    errors.DigestMismatch: ExitCode.REFUSED,
    errors.DiskFull: ExitCode.REFUSED,
    errors.DiskFailed: ExitCode.REFUSED,
    errors.Busy: ExitCode.REFUSED,
    errors.Unauthenticated: ExitCode.UNREACHABLE,
    errors.Forbidden: ExitCode.REFUSED,
    errors.Unreachable: ExitCode.UNREACHABLE,
    errors.TimedOut: ExitCode.TIMED_OUT,
    errors.WorkerFailed: ExitCode.JOB_FAILED,
    errors.InternalError: ExitCode.REFUSED,
}


def code_of(error: errors.NanofleetError) -> ExitCode:
    return CODES[type(error)]
