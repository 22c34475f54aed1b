"""The converter as a process: JSON lines out, an exit code, nothing heavy loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.artifacts.convert import shapes

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "artifacts.convert", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_is_converted_with_progress(
    tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    code, lines = run("model", tiny_folder, tmp_path / "m.gguf", "--type", "q8_0")
    assert code == 0
    assert (tmp_path / "m.gguf").read_bytes() == tiny_base.read_bytes()
    *progress, result = lines
    assert {line["event"] for line in progress} == {"progress"}
    written = [line["done_bytes"] for line in progress if line["stage"] == "convert"]
    assert written == sorted(written)
    assert written[-1] == progress[0]["total_bytes"]
    assert {line["stage"] for line in progress} == {"convert", "prove"}
    assert progress[-1]["done_bytes"] == progress[-1]["total_bytes"]
    assert result == {
        "event": "result",
        "path": str(tmp_path / "m.gguf"),
        "architecture": "gemma3",
        "parameters": result["parameters"],
        "size_bytes": tiny_base.stat().st_size,
        "warnings": [],
        "proof": result["proof"],
    }
    assert result["proof"]["logit_difference"] < 5e-3
    assert result["proof"]["divergence_nats"] < 1e-4


def test_an_adapter_is_converted(tiny_folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    shapes.write_adapter(shapes.load(tiny_folder), tmp_path / "peft")
    code, lines = run("adapter", tmp_path / "peft", tiny_base, tmp_path / "a.gguf")
    assert code == 0
    assert [line["event"] for line in lines] == ["result"]
    assert lines[0]["size_bytes"] == (tmp_path / "a.gguf").stat().st_size


def test_an_error_is_a_line_and_an_exit_code(tmp_path: Path) -> None:
    code, (line,) = run("model", tmp_path, tmp_path / "m.gguf")
    assert code == 1
    assert (line["event"], line["type"], line["reason"]) == ("error", "NotFound", "NOT_FOUND")
    assert "config.json is missing" in line["what"]


def test_a_failing_system_call_is_an_error_too(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").mkdir()
    code, lines = run("model", tiny_folder, tmp_path / "m.gguf")
    assert code == 1
    assert lines[-1]["event"] == "error"
    assert "m.gguf" in lines[-1]["what"]


@pytest.mark.parametrize("heavy", ["torch", "transformers", "llama_cpp", "safetensors"])
def test_the_converter_loads_nothing_heavy(heavy: str) -> None:
    code = f"import sys, artifacts.convert.__main__; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
