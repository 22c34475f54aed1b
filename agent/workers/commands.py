"""What the agent wants, read by a thread of its own and obeyed between two micro-steps.

The end of a job's lease is an order to stop, too: it needs nobody to say it, and so it holds while
the agent itself is frozen, or its link to the controller is.
"""

import enum
import queue
import threading
import time
from collections.abc import Callable

from agent.workers.channel import FrameError, FrameReader
from protos.nanofleet.v1 import worker_pb2


class Order(enum.Enum):
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


_ORDERS = {order.value: order for order in Order}


def boottime_ns() -> int:
    """The clock of leases, which the agent has, too: it runs through sleep."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Commands:
    """Orders in the sequence in which they came. The end of the pipe is an order to stop, and so is
    the end of the lease (``lease_end_ns``; 0: the job has none)."""

    def __init__(
        self,
        reader: FrameReader[worker_pb2.TrainingCommand],
        lease_end_ns: int = 0,
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        self._reader = reader
        self._lease_end_ns = lease_end_ns
        self._clock_ns = clock_ns
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        # Set ahead of the orders before it.
        self._stop_asked = threading.Event()

    def listen(self) -> None:
        """Starts the thread; it ends with the pipe, or with the process."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    @property
    def lease_ended(self) -> bool:
        return 0 < self._lease_end_ns <= self._clock_ns()

    def should_stop(self) -> bool:
        """For work that has no place to pause at."""
        return self._stop_asked.is_set() or self.lease_ended

    def next(self, timeout_s: float | None = 0) -> Order | None:
        """The next order; None when there is none within the time (None: waits for one)."""
        while not self.lease_ended:
            patience_s = self._patience_s(timeout_s)
            try:
                return self._orders.get(block=patience_s != 0, timeout=patience_s or None)
            except queue.Empty:
                if patience_s == timeout_s:
                    return None
        return Order.STOP

    def _patience_s(self, timeout_s: float | None) -> float | None:
        """As long as asked, or until the lease ends, which may have been extended by then."""
        if not self._lease_end_ns or timeout_s == 0:
            return timeout_s
        lease_s = max(0.001, (self._lease_end_ns - self._clock_ns()) / 1e9)
        return lease_s if timeout_s is None else min(timeout_s, lease_s)

    def _read(self) -> None:
        try:
            while (command := self._reader.read()) is not None:
                if command.HasField("extend_lease"):
                    end_ns = command.extend_lease.until_boottime_ns
                    self._lease_end_ns = max(self._lease_end_ns, end_ns)
                elif order := _ORDERS.get(command.WhichOneof("command") or ""):
                    self._put(order)
        except (FrameError, OSError):
            # The agent is broken: the same as gone.
            pass
        self._put(Order.STOP)

    def _put(self, order: Order) -> None:
        self._orders.put(order)
        if order is Order.STOP:
            self._stop_asked.set()
