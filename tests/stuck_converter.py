"""The real converter, stuck at a pipe that nobody reads, and the death of who started it."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PATIENCE_S = 60


def ends_with_its_parent(script: str, target: Path, *arguments: Path) -> bool:
    """Runs ``script`` (Python; its arguments: an interpreter, those given, the target), which
    converts to ``target``; kills it, and says whether its child then died.

    The child is started through a shell that knows its number and with it the name of its
    temporary file: that one is the pipe. The shell goes on when its number has been read.
    """
    said, pipe, python = (target.with_name(name) for name in ("said", "pipe", "python"))
    os.mkfifo(said)
    os.mkfifo(pipe)
    python.write_text(
        f'#!/bin/sh\nln -s {pipe} "{target.parent}/.{target.name}.$$.tmp"\n'
        f'echo $$ > {said}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o700)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (python, *arguments, target))], cwd=ROOT
    )
    try:
        child = int(said.read_text())
        descriptor = os.pidfd_open(child)
    finally:
        parent.kill()
        parent.wait()
    died, _, _ = select.select([descriptor], [], [], _PATIENCE_S)
    if not died:
        os.kill(child, signal.SIGKILL)
    os.close(descriptor)
    return bool(died)
