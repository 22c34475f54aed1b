"""The process of one attempt of a job, whatever the job does: orders in, reports out.

It attaches to its agent, takes the lowest priority, reads the first order and does the work. What
the work raises becomes the last report, WorkerFailed; the traceback goes to the attempt's log.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from agent.workers import own_log
from agent.workers.channel import FrameReader, FrameWriter, attach
from protos.nanofleet.v1 import worker_pb2

Orders: TypeAlias = FrameReader[worker_pb2.TrainingCommand]

_LOWEST_PRIORITY = 19


def run(
    argv: Sequence[str] | None,
    work: Callable[[worker_pb2.TrainingCommand, Orders, FrameWriter], None],
    explain: Callable[[BaseException], worker_pb2.WorkerFailed],
) -> int:
    """The exit status. ``work`` gets the first order, those after it, and where its reports go."""
    reader, reports = attach(argv, worker_pb2.TrainingCommand)
    os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
    try:
        first = reader.read()
        if first is not None:
            work(first, reader, reports)
    except Exception as error:  # noqa: BLE001  # decided here: it becomes the attempt's cause
        own_log.say_error()
        with contextlib.suppress(BrokenPipeError):
            reports.write(worker_pb2.TrainingReport(failed=explain(error)))
        return 1
    finally:
        own_log.give_up()
    return 0
