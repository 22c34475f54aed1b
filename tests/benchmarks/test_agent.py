"""The benchmark of the agent at rest works; what this machine takes for it is not looked at."""

from pathlib import Path

from agent.telemetry.simulation import Wanted
from benchmarks import agent, day
from benchmarks.agent import BOARD, Bench, write_board


def bench(folder: Path) -> Bench:
    return Bench(
        scratch=folder,
        minutes=0.01,
        hours=0.05,
        warm_up_s=0.0,
        repeats=1,
        reads=20,
        recorded=write_board(folder / "recorded"),
    )


async def test_every_figure_is_there(tmp_path: Path) -> None:
    made = bench(tmp_path)
    rows = [row for group in agent.GROUPS.values() for row in await group(made)]
    values = {row.name: row.value for row in rows}
    assert all(value is not None for value in values.values())
    assert 5 < values["at rest, PSS, median"] <= values["at rest, RSS, median"] < 500
    assert values["reading supply"] > 0
    assert {"Pss, MiB", "start to an answer, s"} <= made.runs.keys()


def test_a_day_is_counted_in_blocks_and_is_all_there(tmp_path: Path) -> None:
    wanted = Wanted(BOARD, write_board(tmp_path / "recorded"))
    days = day.record(tmp_path, wanted, 300)
    assert {kept.samples for kept in days.values()} == {300}
    # Two blocks of samples, and one of batches.
    assert {kept.day_bytes for kept in days.values()} == {3 << 16}
    assert all(kept.plain_bytes_per_sample > 400 for kept in days.values())
