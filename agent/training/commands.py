"""What the agent wants, read by a thread of its own and obeyed between two micro-steps."""

import enum
import queue
import threading

from agent.workers.channel import FrameError, FrameReader
from protos.nanofleet.v1 import worker_pb2


class Order(enum.Enum):
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


_ORDERS = {order.value: order for order in Order}


class Commands:
    """Orders in the sequence in which they came. The end of the pipe is an order to stop."""

    def __init__(self, reader: FrameReader[worker_pb2.TrainingCommand]) -> None:
        self._reader = reader
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        # Set ahead of the orders before it, for work that has no place to pause at.
        self.stop_asked = threading.Event()

    def listen(self) -> None:
        """Starts the thread; it ends with the pipe, or with the process."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next(self, timeout_s: float | None = 0) -> Order | None:
        """The next order; None when there is none within the time (None: waits for one)."""
        try:
            return self._orders.get(block=timeout_s != 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def _read(self) -> None:
        try:
            while (command := self._reader.read()) is not None:
                if order := _ORDERS.get(command.WhichOneof("command") or ""):
                    self._put(order)
        except (FrameError, OSError):
            # The agent is broken: the same as gone.
            pass
        self._put(Order.STOP)

    def _put(self, order: Order) -> None:
        self._orders.put(order)
        if order is Order.STOP:
            self.stop_asked.set()
