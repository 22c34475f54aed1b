"""The inference worker: a process that holds one base model and ends with its agent.

    python -m agent.inference.worker --commands FD --reports FD --parent PID

The first command is OpenModel; ModelOpened or WorkerFailed answers it. Then requests are
started and cancelled, until the agent closes the pipe. To serve another model, the agent ends this
process and starts a new one: that gives back every byte, which no library's close() promises.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.inference import opening, wire
from agent.inference.engine import BatchingEngine, Engine
from agent.inference.session import Session
from agent.workers import residency
from agent.workers.channel import FrameWriter, attach
from protos.errors import InternalError, NanofleetError
from protos.nanofleet.v1 import worker_pb2


def main(argv: Sequence[str] | None = None) -> int:
    commands, reports = attach(argv, worker_pb2.InferenceCommand)
    first = commands.read()
    if first is None:
        return 0
    try:
        with _open(first.open, reports) as engine:
            Session(engine, commands, reports).run()
    except BrokenPipeError:
        return 0  # The agent is gone; there is nobody to tell.
    except NanofleetError as error:
        reports.write(wire.worker_failure(error))
        return 1
    except Exception as error:
        defect = InternalError(f"The inference worker failed: {error!r}.", fix="See its log.")
        reports.write(wire.worker_failure(defect))
        raise
    return 0


def _open(command: worker_pb2.OpenModel, reports: FrameWriter) -> Engine:
    began_s = time.monotonic()
    options = wire.options(
        command, _spare_threads(), lambda digest: reports.write(wire.adapter_freed(digest))
    )
    engine = opening.opened(command.engine, Path(command.base_path), options)
    memory = residency.measure()
    told = worker_pb2.ModelOpened(
        context_length=engine.context_length,
        load_s=time.monotonic() - began_s,
        anonymous_bytes=memory.anonymous_bytes,
        file_bytes=memory.file_bytes,
        streams=engine.streams if isinstance(engine, BatchingEngine) else 1,
    )
    reports.write(worker_pb2.InferenceReport(opened=told))
    return engine


def _spare_threads() -> int:
    """One core stays free for the agent and for whoever reads the answer."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


if __name__ == "__main__":
    sys.exit(main())
