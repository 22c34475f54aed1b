"""A simulated board: its files are those of the board, and follow what the agent does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.telemetry.sampler import Sampler
from agent.telemetry.simulation import SimulatedBoard, Wanted
from jetson.board import identify
from jetson.memory import read_memory, read_process
from protos.errors import InvalidRequest
from tests.agent.telemetry.test_sampler import Clock, S, nobody
from tests.jetson import trees


def busy(seconds: float) -> None:
    started = os.times()
    while os.times().user - started.user < seconds:
        sum(range(10_000))


def test_load_becomes_watts_and_then_degrees(tmp_path: Path) -> None:
    clock = Clock()
    board = SimulatedBoard(Wanted("nano-4gb"), tmp_path, lambda: [os.getpid()], clock)
    sampling = Sampler(
        board.root, nobody, boottime_ns=clock, cpu_times=board.cpu_times, is_simulated=True
    )
    rest = sampling.sample()
    assert (rest.power.total_mw, rest.power.total_source) == (1250, "POM_5V_IN")
    assert rest.simulated
    board.move()
    busy(0.2)
    # The whole of this process' time, as if it had been that of all cores.
    clock.now_ns += int(0.2 * S) // len(os.sched_getaffinity(0))
    board.move()
    first = sampling.sample()
    assert 4_000 < first.power.total_mw <= 5_150
    assert first.cpu.load_percent > 70
    assert first.cpu.frequency_mhz > 1_000
    assert first.heat.celsius - rest.heat.celsius < 1, "heat takes its time"
    # A minute of rest: the watts go at once.
    clock.now_ns += 60 * S
    board.move()
    last = sampling.sample()
    assert last.power.total_mw < 1_500
    assert last.power.energy_j > rest.power.energy_j


def test_worker_that_is_new_counts_from_its_start(tmp_path: Path) -> None:
    """One of a second or two would otherwise be seen by its end alone."""
    clock, pids = Clock(), [os.getpid()]
    board = SimulatedBoard(Wanted("nano-4gb"), tmp_path, lambda: pids, clock)
    board.move()
    with subprocess.Popen(
        [sys.executable, "-c", "sum(range(5_000_000)); print('done', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"done\n"
        pids.append(worker.pid)
        clock.now_ns += S // 20
        board.move()
        worker.kill()
    assert board.cpu_times()[0] > 0.02


def test_memory_is_that_of_the_board_less_what_the_agent_takes(tmp_path: Path) -> None:
    board = SimulatedBoard(Wanted("nano-2gb"), tmp_path, lambda: [os.getpid()], Clock())
    board.move()
    reading, own, here = read_memory(board.root), read_process(os.getpid()), read_memory()
    assert reading is not None
    assert own is not None
    assert here is not None
    assert reading.total_bytes == 2_027_000 * 1024
    expected = min(board.available_bytes - own.anonymous_bytes, here.available_bytes)
    assert abs(reading.available_bytes - expected) < 64 << 20


@pytest.mark.parametrize("name", trees.AT_REST)
def test_every_board_can_be_simulated(tmp_path: Path, name: str) -> None:
    board = SimulatedBoard(Wanted(name), tmp_path, lambda: [os.getpid()], Clock())
    board.move()
    taken = Sampler(board.root, nobody, is_simulated=True).sample()
    assert identify(board.root, "aarch64").is_jetson
    assert taken.HasField("power") == (name != "nano-2gb")
    assert taken.heat.throttle_celsius > 90
    assert taken.power_mode.name


def test_recorded_tree_is_replayed_and_left_alone(tmp_path: Path) -> None:
    recorded = trees.write(trees.ORIN_NANO, tmp_path / "recorded")
    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    wanted = Wanted("orin-nano-8gb-devkit", recorded)
    clock = Clock()
    for _ in range(2):  # the second start begins at rest again
        board = SimulatedBoard(wanted, tmp_path, lambda: [os.getpid()], clock)
        assert identify(board.root, "aarch64").l4t == "36.4.3"
        assert Sampler(board.root, nobody).sample().power.total_mw == 2957
        board.move()
        busy(0.05)
        clock.now_ns += S // 20
        board.move()
        assert Sampler(board.root, nobody).sample().power.total_mw > 2957
    assert {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()} == before


def test_board_that_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidRequest, match="nano-5gb") as refused:
        Wanted("nano-5gb")
    assert "orin-nano-4gb" in refused.value.fix


def test_folder_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not the tree of a board"):
        Wanted("nano-4gb", tmp_path)
