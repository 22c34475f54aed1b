"""The benchmark's tool works; what it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Row, table
from benchmarks.shapes import GEMMA3_1B, QUICK
from benchmarks.training import GROUPS
from benchmarks.work import sample_flops

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_every_row_and_says_why_one_has_no_value(tmp_path: Path) -> None:
    target = tmp_path / "training.json"
    # test_forecast.py has that one.
    groups = ",".join(name for name in GROUPS if name != "forecast")
    command = [sys.executable, "-m", "benchmarks.training", "--quick", "--json", str(target)]
    command += ["--only", groups]
    done = subprocess.run(
        [*command, "--models", str(tmp_path / "models")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    measured = written["groups"].values()
    rows = [row for group in measured for row in group["rows"]]
    runs = {label: found for group in measured for label, found in group["runs"].items()}
    names = " | ".join(row["name"] for row in rows)
    for part in ("GGUF", "qint8", "anonymous", "all seven", "plain recipe", "bf16", "GEMM"):
        assert part in names
    for part in ("packed against apart", "hard limit", "resumed", "Q4_0"):
        assert part in names
    for label in ("gguf", "all seven", "bf16 LoRA", "gemm", "packed", "apart", "resume"):
        assert runs.get(label), label
    for row in rows:
        assert row["value"] is not None or row["note"], row
    assert all({"torch", "python", "peft"} <= group["versions"].keys() for group in measured)
    assert all(group["machine"]["cpu"] for group in measured)


def test_a_missed_target_and_a_missing_value_are_told_apart() -> None:
    rows = [Row("a", 2.0, "GB", 1.6), Row("b", 1.0, "GB", 1.6), Row("c", None, "x", note="no root")]
    _, missed, met, absent = table(rows).splitlines()
    assert missed.endswith("MISSED")
    assert met.endswith("met")
    assert absent.endswith("not measured: no root")


def test_the_count_of_operations_by_hand() -> None:
    """One token has no attention to speak of: check the linear part against the weights."""
    attention = 2 * 1152 * 1024 + 2 * 1152 * 256
    layer = attention + 3 * 1152 * 6912
    first = 1152 * (1024 + 2 * 256)
    lora = 8 * (4 * (1152 + 1024) - 2 * 1024 + 2 * 256)
    square = 4 * 1024
    expected = 26 * (3 * 2 * layer + 4 * square + 4 * 2 * lora) - 2 * first
    assert sample_flops(GEMMA3_1B, 1, ("q_proj", "k_proj", "v_proj", "o_proj"), 8) == expected
    stored = sample_flops(QUICK, 8, ("q_proj",), 8, stored_layers=QUICK.layers)
    assert stored < sample_flops(QUICK, 8, ("q_proj",), 8)
