"""A worker that hangs is ended; one that is only slow never is."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.workers import orphans
from agent.workers.orphans import Used
from agent.workers.watchdog import PATIENCE_S, PERIOD_S, STALL_S, STALL_TIMES, Watchdog
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
        """Looks once a period, at a worker that takes this share of a core and moves so much."""
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
    worker.look_for(1800, cpu=1.0)
    assert worker.dog.silent_s == 0
    worker.look_for(120)
    assert worker.dog.silent_s == 120


def test_the_silence_grows_where_nobody_looks() -> None:
    """Even of a worker that computes: what looks after it is broken, and the agent must know."""
    worker = Worker()
    worker.cpu_s += 3600
    worker.clock.advance(3600)
    assert worker.dog.silent_s == 3600


def test_a_micro_step_of_most_of_an_hour_is_no_reason() -> None:
    for cpu in (1.0, 0.02):
        worker = Worker()
        for _ in range(30):
            assert not worker.look_for(STALL_S - PERIOD_S, cpu=cpu)
            worker.dog.reports += 1


def test_what_computes_without_getting_anywhere_spins_and_is_ended() -> None:
    worker = Worker()
    assert not worker.look_for(STALL_S - PERIOD_S, cpu=1.0)
    assert worker.dog.stalled_s == STALL_S - PERIOD_S
    assert worker.dog.silent_s == 0
    assert worker.look_for(PERIOD_S, cpu=1.0)
    assert worker.dog.said("training") == (
        "The training worker hung and was ended: it computed for 60 min without a step or any other"
        " sign of getting on: it reported nothing, and read and wrote nothing."
    )


def test_the_limit_grows_with_the_longest_stretch_that_it_came_back_from() -> None:
    worker = Worker()
    worker.look_for(1200, cpu=1.0)
    worker.dog.reports += 1
    worker.look_for(PERIOD_S, cpu=1.0)
    limit_s = STALL_TIMES * (1200 + PERIOD_S)
    assert worker.dog.most_stalled_s == limit_s > STALL_S
    assert not worker.look_for(limit_s - PERIOD_S, cpu=1.0)
    assert worker.look_for(PERIOD_S, cpu=1.0)


def test_a_rest_is_no_stretch_of_work() -> None:
    worker = Worker()
    worker.rests = True
    worker.look_for(86_400)
    worker.rests = False
    worker.dog.reports += 1
    worker.look_for(PERIOD_S, cpu=1.0)
    assert worker.dog.most_stalled_s == STALL_S


def test_the_end_of_a_child_with_all_that_it_used_is_no_silence() -> None:
    """Tokenising took hours of its processor time, and it read much; the worker has yet to."""
    worker = Worker()
    worker.look_for(7200, cpu=1.0, moved=1 << 20)
    worker.cpu_s = worker.moved_bytes = 0
    assert not worker.look_for(PATIENCE_S * 2, cpu=1.0)


@given(st.lists(st.tuples(st.sampled_from(["step", "byte", "compute", "nothing"]),
                          st.integers(1, 200)), max_size=30))  # fmt: skip
def test_only_who_gets_nowhere_for_its_limit_is_ended(history: list[tuple[str, int]]) -> None:
    """Whatever came before: never within the limits, always beyond them."""
    worker, silent_s, stalled_s, limit_s = Worker(), 0.0, 0.0, STALL_S
    for act, periods in history:
        for _ in range(periods):
            worker.dog.reports += act == "step"
            ended = worker.look_for(PERIOD_S, cpu=float(act != "nothing"), moved=act == "byte")
            silent_s = silent_s + PERIOD_S if act == "nothing" else 0.0
            stalled_s += PERIOD_S
            if act in ("step", "byte"):
                limit_s, stalled_s = max(limit_s, STALL_TIMES * stalled_s), 0.0
            assert ended == (silent_s >= PATIENCE_S or stalled_s >= limit_s)
            if ended:
                return


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


def counted_of(path: Path) -> int:
    """What the kernel counts of a file of a MiB there: nothing, where files are in memory."""
    before = orphans._moved_bytes(os.getpid())
    path.write_bytes(bytes(1 << 20))
    return orphans._moved_bytes(os.getpid()) - before


def test_what_a_session_uses_is_seen(tmp_path: Path) -> None:
    """With its children, and what they move from and to the disk; nothing else that they read."""
    script = (
        "import subprocess, sys\n"
        "child = 'import sys; open(sys.argv[1], \"wb\").write(bytes(1 << 20));'\\\n"
        '    \' open("/dev/zero", "rb").read(1 << 26); print(1, flush=True); input()\'\n'
        "sum(range(10**7))\n"
        "subprocess.run([sys.executable, '-c', child, sys.argv[1]])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        used = orphans.used_by_session(process.pid)
        process.communicate(b"\n")
    assert used.cpu_s > 0.02
    assert counted_of(tmp_path / "other") <= used.moved_bytes < 1 << 26
    assert orphans.used_by_session(process.pid) == Used(0.0, 0)


def test_it_says_what_happened() -> None:
    worker = Worker()
    worker.look_for(PATIENCE_S)
    assert worker.dog.said("training") == (
        "The training worker hung and was ended: for 10 min it reported nothing, took no processor"
        " time, and read and wrote nothing."
    )
