"""Every failure has a cause and a sentence; the failures are real ones."""

import errno

import pytest
import torch

from agent.training.failures import bad_line, bad_spec, explain
from protos.errors import DiskFull, InvalidDataset, InvalidRequest
from protos.nanofleet.v1 import job_pb2


def raised(action: str) -> BaseException:
    try:
        if action == "write to a full disk":
            with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
                file.write(b"x")
        elif action == "allocate with torch":
            torch.empty(1 << 58)
        elif action == "allocate":
            bytearray(1 << 62)
        elif action == "divide":
            _ = 1 / 0
    except (OSError, RuntimeError, MemoryError, ZeroDivisionError) as error:
        return error
    raise AssertionError(f"{action} did not fail")


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (bad_spec("Wrong. Right it."), job_pb2.CAUSE_BAD_SPEC, "Wrong. Right it."),
        (bad_line("a.jsonl", 7, "empty."), job_pb2.CAUSE_BAD_DATA, "a.jsonl:7: empty."),
        (InvalidDataset("No.", fix="Do."), job_pb2.CAUSE_BAD_DATA, "No. Do."),
        (InvalidRequest("No.", fix="Do."), job_pb2.CAUSE_BAD_SPEC, "No. Do."),
        (DiskFull("Full."), job_pb2.CAUSE_DISK_FULL, "Full."),
        (OSError(errno.EDQUOT, "Quota", "/x"), job_pb2.CAUSE_DISK_FULL, "writing /x"),
        (raised("write to a full disk"), job_pb2.CAUSE_DISK_FULL, "The disk became full"),
        (raised("allocate with torch"), job_pb2.CAUSE_OOM, "Lower sequence_length"),
        (raised("allocate"), job_pb2.CAUSE_OOM, "ran out of memory"),
        (raised("divide"), job_pb2.CAUSE_WORKER_CRASH, "ZeroDivisionError: division by zero."),
    ],
)
def test_explained(error: BaseException, cause: job_pb2.Cause.ValueType, message: str) -> None:
    report = explain(error)
    assert report.cause == cause
    assert message in report.message
    assert "\n" not in report.message
