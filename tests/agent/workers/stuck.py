"""A worker of a job that gets nowhere, as the job's name says. Its memory is watched all the while,
as that of a real one: a thread that reads /proc is no sign of life.

    spins     computes for ever
    hangs     does nothing
    slow      does nothing until it is told to stop; then takes long, and says that it gets on
    deaf      as slow, but never gets there
"""

import signal
import sys
import time

from agent.workers import attempt
from agent.workers.attempt import Orders
from agent.workers.channel import FrameWriter
from agent.workers.residency import AnonymousPeak
from protos.nanofleet.v1.job_pb2 import LogLine
from protos.nanofleet.v1.worker_pb2 import (
    Beat,
    TrainingCommand,
    TrainingReport,
    TrainingStopped,
    WorkerFailed,
)

BEATS = 30
BEAT_S = 0.1


def work(first: TrainingCommand, orders: Orders, reports: FrameWriter) -> None:
    kind = first.start.job_name
    with AnonymousPeak():
        reports.write(TrainingReport(log=LogLine(text=kind)))
        if kind == "spins":
            while True:
                pass
        if kind != "hangs":
            orders.read()
        if kind == "slow":
            for _ in range(BEATS):
                time.sleep(BEAT_S)
                reports.write(TrainingReport(beat=Beat()))
            reports.write(TrainingReport(stopped=TrainingStopped(step=3)))
            return
        signal.pause()


if __name__ == "__main__":
    sys.exit(attempt.run(None, work, lambda error: WorkerFailed(message=str(error))))
