"""A worker that hangs is ended; one that is only slow never is."""

import subprocess
import sys

from agent.workers import orphans, watchdog
from agent.workers.orphans import Used
from agent.workers.watchdog import PATIENCE_S, PERIOD_S, Watchdog
from tests.agent.clocks import Clock


class Worker:
    """What /proc and the pipe would show of one."""

    pid = 7

    def __init__(self) -> None:
        self.clock = Clock()
        self.rests = False
        self.was_killed = False
        self.cpu_s, self.moved_bytes = 0.0, 0
        self.dog = Watchdog(
            self, lambda: self.rests, clock=self.clock, used=lambda pid: self._used(pid)
        )

    def kill(self) -> None:
        self.was_killed = True

    def look_for(self, seconds: float, *, cpu: float = 0, moved: int = 0) -> bool:
        """Looks on every beat, at a worker that takes this share of a core and moves so much."""
        for _ in range(round(seconds / PERIOD_S)):
            self.clock.advance(PERIOD_S)
            self.cpu_s += cpu * PERIOD_S
            self.moved_bytes += moved
            self.dog.look()
        return self.was_killed

    def _used(self, pid: int) -> Used:
        assert pid == self.pid
        return Used(self.cpu_s, self.moved_bytes)


def test_without_a_sign_of_life_it_is_ended_after_its_patience() -> None:
    worker = Worker()
    assert not worker.look_for(PATIENCE_S - PERIOD_S)
    assert worker.look_for(PERIOD_S)
    assert worker.dog.hung


def test_it_tells_for_how_long_there_was_no_sign() -> None:
    worker = Worker()
    worker.look_for(3600, cpu=1.0)
    assert worker.dog.silent_s == 0
    worker.look_for(120)
    assert worker.dog.silent_s == 120


def test_the_silence_grows_where_nobody_looks() -> None:
    """Even of a worker that computes: what looks after it is broken, and the agent must know."""
    worker = Worker()
    worker.cpu_s += 3600
    worker.clock.advance(3600)
    assert worker.dog.silent_s == 3600


def test_a_step_of_a_day_is_no_reason() -> None:
    assert not Worker().look_for(86_400, cpu=1.0)
    assert not Worker().look_for(86_400, cpu=0.02)


def test_a_slow_disk_is_none_either() -> None:
    assert not Worker().look_for(86_400, moved=1)


def test_what_only_wakes_up_to_look_does_not_live() -> None:
    assert Worker().look_for(PATIENCE_S * 2, cpu=0.001)


def test_a_report_is_a_sign_of_life() -> None:
    worker = Worker()
    for _ in range(5):
        assert not worker.look_for(PATIENCE_S - PERIOD_S)
        worker.dog.reports += 1


def test_who_was_told_to_rest_is_excused_and_counts_anew_then() -> None:
    worker = Worker()
    worker.rests = True
    assert not worker.look_for(86_400)
    worker.rests = False
    assert not worker.look_for(PATIENCE_S - PERIOD_S)
    assert worker.look_for(PERIOD_S)


def test_what_a_session_uses_is_seen() -> None:
    """With its children, and what they read."""
    script = (
        "import os, subprocess, sys\n"
        'child = \'import os; os.read(os.open("/dev/zero", 0), 1 << 20); print(1, flush=True);'
        " input()'\n"
        "sum(range(10**7))\n"
        "subprocess.run([sys.executable, '-c', child])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = orphans.used_by_session(process.pid)
        process.communicate(b"\n")
    assert used.cpu_s > 0.02
    assert used.moved_bytes > 1 << 20
    assert orphans.used_by_session(process.pid) == Used(0.0, 0)


def test_it_says_what_happened() -> None:
    assert watchdog.said("training").startswith(
        "The training worker hung and was ended: for 10 min"
    )
