"""The benchmark of durability works; how fast this machine is is not looked at."""

from pathlib import Path

from benchmarks import durability
from benchmarks.durability import Bench


async def test_every_figure_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, repeats=2)
    rows = await durability.journal(bench) + await durability.start(bench)
    assert len(rows) == 2 + 2 * 3
    assert all(row.value is not None and row.value > 0 for row in rows)
    assert {len(values) for name, values in bench.runs.items() if "start" in name} == {2}
