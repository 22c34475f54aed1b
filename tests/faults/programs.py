"""Programs that a person runs and that work in a process of their own: its death is told as an
error, and the same command does it then."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts.convert.checkpoint import read_checkpoint
from tests.faults.lab import Lab, Program


def converted(lab: Lab, folder: Path, dies: Mapping[str, str]) -> None:
    arguments = ("model", "import", str(folder), "--name", "again", "--home", str(lab.home))
    _twice(lab, arguments, dies)
    assert list((lab.home / "scratch").iterdir()) == []


def merged(lab: Lab, folder: Path, dies: Mapping[str, str]) -> None:
    from tests.artifacts.convert import shapes

    adapter, target = lab.folder / "peft", lab.folder / "merged"
    shapes.write_adapter(shapes.load(folder), adapter)
    arguments = ("adapter", "merge", str(adapter), "--base", str(folder), "--out", str(target))
    _twice(lab, (*arguments, "--force"), dies)
    assert set(read_checkpoint(target)) == set(read_checkpoint(folder))


def _twice(lab: Lab, arguments: Sequence[str], dies: Mapping[str, str]) -> None:
    log = lab.folder / "program.log"
    command = ("-m", "controller.cli", *arguments)
    first = Program(log, command, dies)
    assert first.wait() > 0, first.said()
    assert "Traceback" not in first.said()
    again = Program(log, command, dies)
    assert again.wait() == 0, again.said()
