"""The tree of commands, and what happens to errors on the way out."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from controller.cli.main import app
from tests.controller.cli.conftest import ROOT, Invoke, Start


def commands(node: typer.Typer = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in node.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__)
    for group in node.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*path, str(group.typer_instance.info.name)))


EXPECTED = """
adapter import, adapter list, adapter merge,
artifact list, artifact pull, artifact push, artifact rm, chat, dataset check, device label,
device list, device remove, device show, device token, embed, generate, init, job cancel, job list,
job logs,
job pause, job result, job resume, job show, job submit, job wait, job watch, key add,
key list, key revoke, model import, model list, score, serve, top, version
"""


def test_the_commands_are_these() -> None:
    expected = {name.strip() for name in EXPECTED.split(",")}
    assert {" ".join(path) for path in commands()} >= expected


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], nanofleet: Invoke) -> None:
    result = nanofleet(*path, "--help")
    assert result.exit_code == 0
    assert f"Example: nanofleet {' '.join(path)}" in " ".join(result.output.split())


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_every_command_can_answer_in_json(path: tuple[str, ...], nanofleet: Invoke) -> None:
    assert "<table|json|jsonl|yaml>" in nanofleet(*path, "--help").output


def test_a_noun_alone_shows_its_help_and_is_a_usage_error(nanofleet: Invoke) -> None:
    result = nanofleet("job")
    assert result.exit_code == 2
    assert "submit" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("jbo",),
        ("job", "lst"),
        ("job", "list", "--stat"),
        ("job", "list", "-o", "xml"),
        ("job", "show"),
        ("chat", "kitchen", "--max-tokens", "many"),
        ("device", "token", "kitchen", "--port", "70000"),
    ],
)
def test_usage_errors_say_where_the_help_is_and_end_with_2(
    arguments: tuple[str, ...], nanofleet: Invoke
) -> None:
    result = nanofleet(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "--help`" in result.stderr
    assert "Traceback" not in result.output


def test_a_typing_error_is_met_with_a_suggestion(nanofleet: Invoke) -> None:
    assert "Did you mean 'list'?" in nanofleet("job", "lst").stderr


def test_usage_errors_are_json_when_json_was_asked_for(nanofleet: Invoke) -> None:
    result = nanofleet("job", "list", "--stat", "-o", "json")
    error = json.loads(result.stderr)["error"]
    assert (error["reason"], error["exit_code"], result.exit_code) == ("USAGE", 2, 2)


def test_without_a_fleet_the_way_to_one_is_shown(nanofleet: Invoke) -> None:
    result = nanofleet("device", "list")
    assert result.exit_code == 5
    assert "nanofleet init" in result.stderr


def test_a_defect_shows_its_traceback_and_how_to_report_it(
    nanofleet: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.cli.version.installed", lambda: 1 / 0)
    result = nanofleet("version")
    assert result.exit_code == 5
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "fix: Report it" in result.stderr


def test_a_full_disk_is_no_defect(nanofleet: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "controller.cli.version.installed", lambda: Path("/dev/full").write_text("x")
    )
    result = nanofleet("version")
    assert result.exit_code == 5
    assert "error: The disk is full." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_goes_away_is_no_error(start: Start) -> None:
    process = start("version")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_version(nanofleet: Invoke) -> None:
    assert json.loads(nanofleet("version", "-o", "json").stdout)["version"]["python"]


def test_help_loads_nothing_heavy() -> None:
    heavy = ("rich", "grpc", "sqlalchemy", "pydantic", "cryptography", "yaml", "asyncio", "torch")
    probe = f"import sys, controller.cli.main; print(*(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
