"""The benchmark of formats works; how fast this machine is is not looked at."""

from pathlib import Path

from benchmarks import formats
from benchmarks.formats import Bench


def test_every_figure_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "models", tmp_path, repeats=1, quick=True)
    rows = formats.models(bench, ["q8_0", "f16"]) + formats.adapter(bench)
    assert len(rows) == 2 * 7 + 1
    assert all(row.value is not None and row.value > 0 for row in rows)
    assert bench.largest_bytes == bench.shape.vocabulary * bench.shape.hidden * 2
    assert list(tmp_path.glob("*.gguf")) == [tmp_path / "adapter.gguf"]
