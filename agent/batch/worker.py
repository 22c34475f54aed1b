"""The worker of a batch generation: a process for one attempt of one job.

    python -m agent.batch.worker --commands FD --reports FD --parent PID

Reads StartGenerating, then obeys pause, resume and stop between two tokens. Its last report is
TrainingFinished, TrainingStopped or WorkerFailed; of a rehearsal it is TrainingRehearsed. It has a
model of its own, whose answers depend on no other request, and leaves the processor to the one that
serves.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from agent.batch import rehearsal
from agent.batch.failures import explain
from agent.batch.session import Session
from agent.workers import attempt
from agent.workers.attempt import Orders
from agent.workers.channel import FrameWriter
from agent.workers.commands import Commands
from artifacts import durable
from protos.nanofleet.v1 import worker_pb2


def main(argv: Sequence[str] | None = None) -> int:
    return attempt.run(argv, _generate, explain)


def _generate(first: worker_pb2.TrainingCommand, orders: Orders, reports: FrameWriter) -> None:
    start = first.generate
    durable.make_folder(Path(start.job_folder))
    commands = Commands(orders, start.lease_until_boottime_ns)
    commands.listen()
    if start.rehearse:
        rehearsal.rehearse(start, commands, reports.write)
    else:
        Session(start, commands, reports.write).run()


if __name__ == "__main__":
    sys.exit(main())
