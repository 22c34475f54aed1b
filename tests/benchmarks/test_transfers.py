"""The benchmark's tool works; what it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_every_row_and_says_why_one_has_no_value(tmp_path: Path) -> None:
    target = tmp_path / "transfers.json"
    command = [sys.executable, "-m", "benchmarks.transfers", "--mib", "8", "--repeat", "1"]
    done = subprocess.run(
        [*command, "--json", str(target), "--scratch", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    names = " | ".join(row["name"] for row in written["rows"])
    for part in ("push, against cp", "pull, against scp", "sent again after a kill"):
        assert part in names
    for row in written["rows"]:
        assert row["value"] is not None or row["note"], row
    assert {"push", "pull", "cp"} <= written["runs"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["transfers.json"]
