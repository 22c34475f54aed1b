"""The benchmark's tool works, with a GPU and without; what it measures is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import llama_cpp
import torch

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_every_row_or_why_not(tmp_path: Path) -> None:
    target = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--repeat", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, "--models", str(tmp_path), "--json", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(target.read_text())
    values = {row["name"]: row["value"] for row in written["rows"]}
    assert values["answer on the processor"] > 0
    assert (values["GPU: tokens/s"] is not None) is torch.cuda.is_available()
    on_gpu = values["answer on the GPU"]
    assert (on_gpu is not None) is llama_cpp.llama_supports_gpu_offload()
    for label, why in written["failed"].items():
        assert "GPU" in why or "CUDA" in why or "quanto" in why, label
