"""The worker of a batch generation: a process for one attempt of one job.

    python -m agent.batch.worker --commands FD --reports FD --parent PID

Reads StartGenerating, then obeys pause, resume and stop between two tokens. Its last report is
TrainingFinished, TrainingStopped or WorkerFailed; of a rehearsal it is TrainingRehearsed. It has a
model of its own, whose answers depend on no other request, and leaves the processor to the one that
serves.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.batch import rehearsal
from agent.batch.failures import explain
from agent.batch.session import Session
from agent.training import own_log
from agent.training.commands import Commands
from agent.workers.channel import FrameReader, FrameWriter, attach
from artifacts import durable
from protos.nanofleet.v1 import worker_pb2

_LOWEST_PRIORITY = 19


def main(argv: Sequence[str] | None = None) -> int:
    reader, reports = attach(argv, worker_pb2.TrainingCommand)
    os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
    try:
        _generate(reader, reports)
    except Exception as error:  # noqa: BLE001  # decided here: it becomes the attempt's cause
        own_log.say_error()
        with contextlib.suppress(BrokenPipeError):
            reports.write(worker_pb2.TrainingReport(failed=explain(error)))
        return 1
    finally:
        own_log.give_up()
    return 0


def _generate(reader: FrameReader[worker_pb2.TrainingCommand], reports: FrameWriter) -> None:
    first = reader.read()
    if first is None:
        return
    start = first.generate
    durable.make_folder(Path(start.job_folder))
    if start.rehearse:
        rehearsal.rehearse(start, reports.write)
        return
    commands = Commands(reader, start.lease_until_boottime_ns)
    commands.listen()
    Session(start, commands, reports.write).run()


if __name__ == "__main__":
    sys.exit(main())
