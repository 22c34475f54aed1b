"""docs/python-api.md is true: its job file loads, its code is code, its first script runs."""

import ast
import re
from pathlib import Path

import pytest

from controller import EnrolmentServer, Fleet, SyncFleet, load_job_file

PAGE = (Path(__file__).parents[2] / "docs/python-api.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_job_file_loads(tmp_path: Path) -> None:
    text, stages = blocks("yaml")
    (tmp_path / "finetune.yaml").write_text(text)
    job = load_job_file(tmp_path / "finetune.yaml")
    written = set(re.findall(r"^  (\w+):", text, re.MULTILINE))
    written |= set(re.findall(r"^  (\w+):", stages, re.MULTILINE))
    # Left out: what excludes another key, or is for experts.
    assert written == set(type(job.train).model_fields) - {"steps", "threads", "memory_budget"}
    (tmp_path / "stages.yaml").write_text(f"name: stages\n{stages}")
    assert len(load_job_file(tmp_path / "stages.yaml").train.stages) == 2


@pytest.mark.parametrize("code", blocks("python"))
def test_the_code_calls_what_there_is(code: str) -> None:
    owners = {"fleet": Fleet, "server": EnrolmentServer, "Fleet": Fleet, "SyncFleet": SyncFleet}
    calls = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
            owner = owners.get(call.value.id)
            assert owner is None or hasattr(owner, call.attr), call.attr


def test_the_script_runs(
    running: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOFLEET_HOME", str(running))
    exec(compile(blocks("python")[0], "python-api.md", "exec"), {})
    assert capsys.readouterr().out == "kitchen ready\n"
