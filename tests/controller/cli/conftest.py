"""Runs the command line: in this process for its text, as a process of its own for its code."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controller.cli.main import app

ROOT = Path(__file__).parents[3]
Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a fleet may be made."""
    return tmp_path / "fleet"


@pytest.fixture
def nanofleet(home: Path) -> Invoke:
    """``nanofleet("device", "list")`` in this process, on ``home``."""

    def invoke(*arguments: str, input: str | None = None) -> Result:
        return CliRunner(env={"NANOFLEET_HOME": str(home)}).invoke(
            app, list(arguments), input=input
        )

    return invoke


@pytest.fixture
def fleet_home(nanofleet: Invoke, home: Path) -> Path:
    """A fleet that was just made."""
    result = nanofleet("init", "--name", "lab")
    assert result.exit_code == 0, result.output
    return home


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """``start("job", "list")`` as a process: ``python -m controller.cli``, on ``home``."""
    with contextlib.ExitStack() as processes:

        def started(*arguments: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, "-m", "controller.cli", *arguments],
                cwd=ROOT,
                env={**os.environ, "NANOFLEET_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield started
