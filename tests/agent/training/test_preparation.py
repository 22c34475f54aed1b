"""The tokenising child: it ends with its worker, and says what went wrong.

The child is the real one. Where it writes is prepared for it: it is started through a shell that
knows the child's number, and with it the name of its temporary file.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.training import preparation, prepare
from agent.training.failures import TrainingFailure
from protos.nanofleet.v1 import job_pb2

KEY = bytes(32)
ROOT = Path(__file__).parents[3]
# Far more than a pipe holds: 64 KiB.
LINES = [{"text": "The waves are high today. " * 8}] * 400
_PARENT = """
import sys
from pathlib import Path
from agent.training.preparation import prepare_in_child
sys.executable, base, source, target = sys.argv[1:]
prepare_in_child(Path(base), Path(source), Path(target), bytes(32), 4096, "data")
"""


def interpreter(folder: Path, written_to: Path) -> Path:
    """Python, whose temporary ``tokens.bin`` in ``folder`` is ``written_to``; its number is left
    in ``folder/pid``."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\nln -s {written_to} "{folder}/.tokens.bin.$$.tmp"\n'
        f'echo $$ > "{folder}/pid"\nexec {sys.executable} "$@"\n'
    )
    path.chmod(0o700)
    return path


def test_a_full_disk_is_told_as_such(
    tiny_base: Path,
    dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", str(interpreter(tmp_path, Path("/dev/full"))))
    with pytest.raises(TrainingFailure, match="disk became full") as caught:
        preparation.prepare_in_child(
            tiny_base, dataset(*LINES), tmp_path / "tokens.bin", KEY, 4096, "data"
        )
    assert caught.value.cause == job_pb2.CAUSE_DISK_FULL
    assert not (tmp_path / "tokens.bin").exists()


def test_every_sample_is_a_sign_of_getting_on(
    tiny_base: Path, dataset: Callable[..., Path], tmp_path: Path
) -> None:
    beats: list[None] = []
    out = tmp_path / "tokens.bin"
    prepare.prepare(tiny_base, dataset(*LINES), out, KEY, 4096, "data", lambda: beats.append(None))
    assert len(beats) == len(LINES)


def test_the_child_is_heard_before_its_answer(tmp_path: Path) -> None:
    """It answers only when it was heard."""
    heard = tmp_path / "heard"
    os.mkfifo(heard)
    script = 'import sys; print(flush=True); open(sys.argv[1]).read(); print("{}")'
    command = [sys.executable, "-c", script, str(heard)]

    def answer() -> None:
        heard.write_text("yes")

    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        said = preparation._answer(child, lambda: False, answer)
    assert said == b"\n{}\n"


def test_an_order_to_stop_is_obeyed_at_once(
    tiny_base: Path,
    dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child hangs where it writes its file, and is gone when the call ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(sys, "executable", str(interpreter(tmp_path, pipe)))
    with pytest.raises(preparation.Stopped):
        preparation.prepare_in_child(
            tiny_base,
            dataset(*LINES),
            tmp_path / "tokens.bin",
            KEY,
            4096,
            "data",
            (tmp_path / "pid").exists,
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not list(tmp_path.glob("*tokens.bin*"))


def test_the_child_dies_with_its_worker(
    tiny_base: Path, dataset: Callable[..., Path], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [interpreter(tmp_path, pipe), tiny_base, dataset(*LINES), tmp_path / "tokens.bin"]
    worker = subprocess.Popen([sys.executable, "-c", _PARENT, *map(str, arguments)], cwd=ROOT)
    try:
        # Opens when the child opens its end, to write what nobody reads: there it stays.
        reader = os.open(pipe, os.O_RDONLY)
        child = int((tmp_path / "pid").read_text())
        descriptor = os.pidfd_open(child)
        worker.kill()
        worker.wait()
        died, _, _ = select.select([descriptor], [], [], 60)
        if not died:
            os.kill(child, signal.SIGKILL)
        os.close(descriptor)
        os.close(reader)
    finally:
        worker.kill()
        worker.wait()
    assert died, "the child went on without its worker"


def test_a_child_whose_worker_is_gone_does_not_begin(tiny_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent.training.prepare", "--parent", str(os.getpid() + 1)]
    command += ["--base", str(tiny_base), "--dataset", "none", "--out", str(tmp_path / "out")]
    command += ["--key", KEY.hex(), "--sequence-length", "64", "--dataset-name", "data"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert "is gone" in child.stderr
    assert not child.stdout
