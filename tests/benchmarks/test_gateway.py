"""The benchmark's tool works; what it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_every_row(tmp_path: Path) -> None:
    target = tmp_path / "gateway.json"
    command = [sys.executable, "-m", "benchmarks.gateway", "--tokens", "32", "--repeat", "2"]
    done = subprocess.run(
        [*command, "--json", str(target), "--scratch", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    assert len(written["rows"]) == 4
    assert all(row["value"] is not None for row in written["rows"])
    assert {len(values) for values in written["runs"].values()} == {2}
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.json"]
