import json

import pytest
import yaml

from controller.cli import failures
from controller.cli.output import Format
from protos.errors import Busy, InvalidDataset, NotFound

ERROR = NotFound("No device is called kitchn.", why="Did you mean kitchen?", fix="See the list.")


def test_three_sentences_and_no_colour_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(ERROR, Format.TABLE)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: No device is called kitchn.\n  why: Did you mean kitchen?\n  fix: See the list.\n"
    )


def test_what_is_empty_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(NotFound("Gone."), Format.TABLE)
    assert capsys.readouterr().err == "error: Gone.\n"


def test_the_lines_of_a_message_stand_below_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures.report(InvalidDataset("a.jsonl:1: broken\na.jsonl:7: empty"), Format.TABLE)
    assert capsys.readouterr().err == "error: a.jsonl:1: broken\n       a.jsonl:7: empty\n"


def test_a_terminal_gets_colour_and_folded_lines() -> None:
    shown = failures._text(NotFound("word " * 40), 60)
    lines = shown.splitlines()
    assert lines[0].startswith("\x1b[1;31merror: \x1b[0mword")
    assert len(lines) == 4
    assert max(len(line.replace("\x1b[1;31m", "").replace("\x1b[0m", "")) for line in lines) <= 60


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in failures._text(ERROR, 60)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(Busy("Full.", retry_after_s=2.5), Format.JSON)
    assert json.loads(capsys.readouterr().err) == {
        "schema_version": 1,
        "error": {
            "type": "Busy",
            "reason": "BUSY",
            "what": "Full.",
            "why": "",
            "fix": "",
            "field": None,
            "retryable": True,
            "retry_after_s": 2.5,
            "exit_code": 5,
        },
    }


def test_as_one_line_and_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(ERROR, Format.JSONL)
    assert capsys.readouterr().err.count("\n") == 1
    failures.report(ERROR, Format.YAML)
    assert yaml.safe_load(capsys.readouterr().err)["error"]["reason"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (["job", "list"], Format.TABLE),
        (["job", "list", "-o", "json"], Format.JSON),
        (["-ojson"], Format.JSON),
        (["--output", "yaml"], Format.YAML),
        (["--output=jsonl"], Format.JSONL),
        (["-o", "xml"], Format.TABLE),
        (["-o"], Format.TABLE),
        (["chat", "--", "-o", "json"], Format.TABLE),
    ],
)
def test_the_wanted_format_is_read_even_from_wrong_arguments(
    arguments: list[str], form: Format
) -> None:
    assert failures.wanted_format(arguments) is form
