"""Programs that a person runs, and runs again when they died. Those that work in a process of their
own tell its death as an error."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts.convert.checkpoint import read_checkpoint
from tests import images
from tests.faults.lab import NOTHING, Lab, Program


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


def installed(lab: Lab, dies: Mapping[str, str]) -> None:
    """What is left of the first is whole or absent; the second does the rest, and no more."""
    root, log = images.make(lab.folder / "image"), lab.folder / "program.log"
    command = ("-m", "agent.cli", "install", "--root", str(root), "--program", "/opt/n/agent")
    assert Program(log, command, dies).wait() == -signal.SIGKILL
    unit = root / "etc/systemd/system/nanofleet-agent.service"
    assert not unit.exists() or "WantedBy=" in unit.read_text()
    again = Program(log, command, NOTHING)
    assert again.wait() == 0, again.said()
    assert "ExecStart=/opt/n/agent run" in unit.read_text()
    wanted = unit.parent / "multi-user.target.wants" / unit.name
    assert wanted.is_symlink()
    assert "most_mib = 3000" in (root / "var/lib/nanofleet/agent.toml").read_text()


def _twice(lab: Lab, arguments: Sequence[str], dies: Mapping[str, str]) -> None:
    log = lab.folder / "program.log"
    command = ("-m", "controller.cli", *arguments)
    first = Program(log, command, dies)
    assert first.wait() > 0, first.said()
    assert "Traceback" not in first.said()
    again = Program(log, command, dies)
    assert again.wait() == 0, again.said()
