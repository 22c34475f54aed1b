"""Ctrl-C, and the plug pulled, while a model is imported or pushed: nothing is left, a later run
does it.
"""

import os
import signal
from pathlib import Path

import psutil

from controller import Fleet, scratch
from protos.nanofleet.v1 import artifact_pb2
from tests.controller.test_two_processes import ended, start


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_an_import_that_is_interrupted(tiny_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    ended([start(home, "init")])
    process = start(home, "model", "import", str(tiny_folder), "--name", "tiny")
    while not (children := children_of(process.pid)):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not any(child.is_running() for child in children)
    assert list((home / "scratch").iterdir()) == []
    ended([start(home, "model", "import", str(tiny_folder), "--name", "tiny")])


def test_what_a_power_cut_left_is_removed_and_what_is_used_stays(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "model.gguf").write_bytes(b"x")
    with scratch.folder(tmp_path) as first, scratch.folder(tmp_path) as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
    assert list(tmp_path.iterdir()) == []


async def test_a_push_that_is_interrupted_goes_on_later(running: Path, tmp_path: Path) -> None:
    size_bytes = 96 << 20
    source = tmp_path / "large.bin"
    source.write_bytes(os.urandom(1 << 20) * (size_bytes >> 20))
    async with Fleet.open(running) as fleet:
        await fleet.add_artifact(source, artifact_pb2.ARTIFACT_KIND_CHECKPOINT, name="large")
        process = start(running, "artifact", "push", "large", "kitchen")
        incoming = running.parent / "kitchen" / "artifacts" / "incoming"
        while not any(incoming.glob("*.journal")):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in said
        [again] = await fleet.push("large", "kitchen")
        assert 0 < again.sent_bytes <= size_bytes
        await fleet.remove_artifact("large", device="kitchen")
