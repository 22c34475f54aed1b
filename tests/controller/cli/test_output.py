import io
import json

import pytest
import yaml

from controller.cli import output
from controller.cli.output import Card, Format, Styled, Table
from controller.cli.plain import Plain

ITEMS: list[dict[str, Plain]] = [
    {"name": "kitchen", "power_mw": None},
    {"name": "hall", "power_mw": 7200},
]
TABLE = Table(("DEVICE", "STATE"), [["kitchen", Styled("idle", "green")], ["hall", "–"]], "None.")


def test_a_pipe_gets_aligned_words_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing("devices", ITEMS, TABLE, Format.TABLE)
    assert capsys.readouterr().out == "DEVICE   STATE\nkitchen  idle\nhall     –\n"


def test_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing("x", [], Table(("A", "B"), [["a" * 300, "b"]]), Format.TABLE)
    assert "a" * 300 + "  b" in capsys.readouterr().out


def test_a_terminal_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.listing("x", [], Table(("A", "B"), [["a" * 300, Styled("b", "red")]]), Format.TABLE)
    assert "…" in screen.getvalue()
    assert "\x1b[31mb" in screen.getvalue()


def test_nothing_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing("devices", [], Table(("A",), [], "No devices."), Format.TABLE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "No devices.\n"


def test_documents_carry_the_schema_version(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing("devices", ITEMS, TABLE, Format.JSON)
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "devices": ITEMS}
    output.listing("devices", ITEMS, TABLE, Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == {"schema_version": 1, "devices": ITEMS}
    output.listing("devices", ITEMS, TABLE, Format.JSONL)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"schema_version": 1, **i} for i in ITEMS]


def test_an_empty_list_is_a_document_and_not_silence(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing("devices", [], TABLE, Format.JSON)
    assert json.loads(capsys.readouterr().out)["devices"] == []


def test_a_card_leaves_out_what_has_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    output.record("device", ITEMS[0], Card([("device", "kitchen"), ("module", "")]), Format.TABLE)
    assert capsys.readouterr().out == "device  kitchen\n"
