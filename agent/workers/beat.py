"""A worker's sign that its work gets on, sent from the loop that does it.

Steps, checkpoints and answers are reported; between two of them a slow board may compute for an
hour. So each micro-step, piece of a dataset and token beats here, and the agent hears of it at most
every PERIOD_S. A worker that spins beats no more, however much it computes (watchdog.py).
"""

import time
from collections.abc import Callable

from protos.nanofleet.v1.worker_pb2 import Beat as Sign
from protos.nanofleet.v1.worker_pb2 import TrainingReport

PERIOD_S = 10.0


class Beat:
    """Called whenever something is done; costs a look at the clock."""

    def __init__(
        self,
        report: Callable[[TrainingReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._clock = clock
        self._told_s = clock()

    def __call__(self) -> None:
        if self._clock() - self._told_s >= PERIOD_S:
            self._told_s = self._clock()
            self._report(TrainingReport(beat=Sign()))
