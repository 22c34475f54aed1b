"""Every error has its exit code, written down."""

from pathlib import Path

import pytest

from agent.cli import main as agent_main
from controller.cli.main import main as controller_main
from protos import errors
from protos.exit_codes import CODES, ExitCode, code_of


def test_the_table_names_every_error_type() -> None:
    assert set(CODES) == set(errors.tree())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidDataset("a.jsonl:3"), 2),
        (errors.TimedOut("…"), 3),
        (errors.Unreachable("…"), 4),
        (errors.Unauthenticated("…"), 4),
        (errors.Forbidden("…"), 5),
        (errors.OutOfMemory("…"), 5),
        (errors.NotFound("…"), 5),
        (errors.WorkerFailed("…"), 1),
        (errors.InternalError("…"), 5),
    ],
)
def test_codes_are_the_documented_ones(error: errors.NanofleetError, code: int) -> None:
    assert code_of(error) == code


def test_both_commands_end_with_the_same_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect is one of ours for both; `1` says that a job failed, and nothing else."""
    monkeypatch.setenv("NANOFLEET_HOME", str(tmp_path))
    identity = tmp_path / "identity"
    identity.mkdir()
    for name in ("key.pem", "chain.pem", "authority.pem"):
        (identity / name).write_text("no certificate")
    assert agent_main(["status", "--state", str(tmp_path)]) == code_of(errors.InternalError(""))
    monkeypatch.setattr("sys.argv", ["nanofleet", "device", "list"])
    with pytest.raises(SystemExit) as ended:
        controller_main()
    assert ended.value.code == code_of(errors.NotFound(""))
    capsys.readouterr()


def test_every_code_has_a_section_in_the_docs() -> None:
    page = Path(__file__).parents[2] / "docs" / "exit-codes.md"
    headings = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert [int(heading.split()[1]) for heading in headings] == sorted(ExitCode)
