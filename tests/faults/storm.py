"""Random faults, drawn from a seed: of the link, and of the two programs at its ends.

    python -m pytest tests/faults/test_storm.py --faults all --storm SEED

draws the same faults in the same order once more. When each of them strikes is the machine's doing.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from tests.faults.link import Fault, Link


class Blow(Enum):
    """A fault of a program."""

    FREEZE_AGENT = "freeze the agent"
    FREEZE_CONTROLLER = "freeze the controller"
    KILL_AGENT = "kill the agent"
    KILL_CONTROLLER = "kill the controller"


@dataclass(frozen=True, slots=True)
class Stroke:
    what: Fault | Blow
    lasts_s: float
    pause_s: float

    def __str__(self) -> str:
        return f"{self.what.value} {self.lasts_s:.2f} s"


# Link faults are the commonest, as they are outside; longer than keepalive bears, now and then.
_KINDS = (*Fault, *Fault, *Blow)
_LONG_SHARE, _LONG_S = 0.03, 17.0


def strokes(seed: int) -> Iterator[Stroke]:
    """Without end."""
    drawn = random.Random(seed)
    while True:
        what = drawn.choice(_KINDS)
        silent = what in (Fault.HALF_OPEN, Fault.DELAY, Blow.FREEZE_AGENT)
        lasts_s = drawn.uniform(0.05, 0.8)
        if drawn.random() < _LONG_SHARE and silent:
            lasts_s = _LONG_S
        yield Stroke(what, lasts_s, drawn.uniform(0.0, 0.3))


@dataclass(slots=True)
class Ends:
    """Who is struck. Both are started again by others when they are killed."""

    link: Link
    agent_pid: Callable[[], int | None]
    controller_pid: Callable[[], int | None]

    def strike(self, stroke: Stroke) -> None:
        """Returns when the fault is over."""
        if isinstance(stroke.what, Fault):
            self.link.break_with(stroke.what)
            time.sleep(stroke.lasts_s)
            self.link.heal()
            return
        is_agent = stroke.what in (Blow.FREEZE_AGENT, Blow.KILL_AGENT)
        pid = (self.agent_pid if is_agent else self.controller_pid)()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if stroke.what in (Blow.KILL_AGENT, Blow.KILL_CONTROLLER):
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stroke.lasts_s)
            os.kill(pid, signal.SIGCONT)
