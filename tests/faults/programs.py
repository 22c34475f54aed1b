"""Programs that a person runs, and runs again when they died. Those that work in a process of their
own tell its death as an error."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from artifacts.adapter import read_manifest
from artifacts.convert import convert_model
from artifacts.convert.checkpoint import read_checkpoint
from artifacts.store import ArtifactStore
from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_ADAPTER
from tests import images
from tests.faults.lab import NOTHING, Lab, Program


def converted(lab: Lab, folder: Path, dies: Mapping[str, str]) -> None:
    arguments = ("model", "import", str(folder), "--name", "again", "--home", str(lab.home))
    assert _twice(lab, arguments, dies) > 0
    assert list((lab.home / "scratch").iterdir()) == []


def adopted(lab: Lab, folder: Path, dies: Mapping[str, str]) -> None:
    """After the second there is one adapter, whatever the first had made."""
    from tests.artifacts.convert import shapes

    peft, base = lab.folder / "peft", lab.folder / "base.gguf"
    shapes.write_adapter(shapes.load(folder), peft)
    convert_model(folder, base)
    home = ("--home", str(lab.home))
    command = ("-m", "controller.cli", "model", "import", str(base), *home)
    assert Program(lab.folder / "program.log", command, NOTHING).wait() == 0
    _twice(lab, ("adapter", "import", str(peft), "--base", "base", *home), dies)
    assert list((lab.home / "scratch").iterdir()) == []
    (stored,) = ArtifactStore(lab.home / "artifacts").list(ARTIFACT_KIND_ADAPTER)
    assert read_manifest(ArtifactStore(lab.home / "artifacts").path(stored.digest)).name == "peft"


def merged(lab: Lab, folder: Path, dies: Mapping[str, str]) -> None:
    from tests.artifacts.convert import shapes

    adapter, target = lab.folder / "peft", lab.folder / "merged"
    shapes.write_adapter(shapes.load(folder), adapter)
    arguments = ("adapter", "merge", str(adapter), "--base", str(folder), "--out", str(target))
    assert _twice(lab, (*arguments, "--force"), dies) > 0
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


def _twice(lab: Lab, arguments: Sequence[str], dies: Mapping[str, str]) -> int:
    """The exit code of the first; the second has to succeed."""
    log = lab.folder / "program.log"
    command = ("-m", "controller.cli", *arguments)
    first = Program(log, command, dies)
    code = first.wait()
    assert code != 0, first.said()
    assert "Traceback" not in first.said()
    again = Program(log, command, dies)
    assert again.wait() == 0, again.said()
    return code
