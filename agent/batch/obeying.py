"""Orders of the agent, obeyed between two tokens or two prompts: pause, resume, stop."""

import time
from collections.abc import Callable

from agent.workers.beat import Beat
from agent.workers.commands import Commands, Order
from protos.nanofleet.v1.worker_pb2 import TrainingPaused, TrainingReport, TrainingResumed


class Stopped(Exception):
    """The agent wants the worker to end; what is done is on the disk."""


class Obeying:
    """``done``: how many prompts are. ``worked_s`` is a clock that stands still in a pause."""

    def __init__(
        self,
        commands: Commands,
        report: Callable[[TrainingReport], None],
        done: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commands = commands
        self._report = report
        self._done = done
        self._clock = clock
        self._paused_s = 0.0
        self._stopped = False
        self._beat = Beat(report, clock)

    def worked_s(self) -> float:
        return self._clock() - self._paused_s

    def check(self) -> None:
        """Raises Stopped once the agent wants the worker to end."""
        if not self.may_go_on():
            raise Stopped

    def may_go_on(self) -> bool:
        """False once the agent wants the worker to end. Rests here while it is paused. Asked after
        each token, which is a sign of getting on."""
        self._beat()
        while not self._stopped:
            order = self._commands.next()
            if order is None:
                return True
            if order is Order.PAUSE:
                order = self._rest()
            self._stopped = order is Order.STOP
        return False

    def _rest(self) -> Order | None:
        """Returns the order that ends the pause."""
        began_s, order = self._clock(), None
        self._report(TrainingReport(paused=TrainingPaused(step=self._done())))
        while order not in (Order.RESUME, Order.STOP):
            order = self._commands.next(None)
        self._paused_s += self._clock() - began_s
        if order is Order.RESUME:
            self._report(TrainingReport(resumed=TrainingResumed(step=self._done())))
        return order
