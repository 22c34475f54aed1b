"""The two scripts of the demo fleet, without containers: a fleet forms on loopback."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.demo.processes import free_port

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The commands of this checkout, as the images have them on their path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("nanofleet", "controller.cli"), ("nanofleet-agent", "agent.cli")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    (tmp_path / "invitations").mkdir()
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "INVITATIONS": str(tmp_path / "invitations"),
        "NANOFLEET_HOME": str(tmp_path / "fleet"),
        "NANOFLEET_STATE": str(tmp_path / "state"),
        "ENROLMENT_HOST": "127.0.0.1",
        "ENROLMENT_PORT": str(free_port()),
        "DEVICE": "kitchen",
    }


def invite(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(ROOT / "docker/invite.sh"), "kitchen"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def device(environment: dict[str, str]) -> Iterator[Process]:
    port = free_port()
    arguments = ["--board", "nano-4gb", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [str(ROOT / "docker/join-and-run.sh"), *arguments],
        env={**environment, "ADVERTISE": f"127.0.0.1:{port}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def said_until(process: Process, words: str) -> None:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(words, line):
            return
    raise AssertionError(said)


def test_a_fleet_forms_and_is_found_again(environment: dict[str, str], device: Process) -> None:
    said_until(device, "waits for its invitation")
    assert "kitchen" in invite(environment)
    said_until(device, r"ready: kitchen on 127\.0\.0\.1")
    assert list(Path(environment["INVITATIONS"]).iterdir()) == []
    healthy = subprocess.run(
        ["nanofleet-agent", "health"], env=environment, capture_output=True, text=True, check=False
    )
    assert (healthy.returncode, healthy.stdout) == (0, "serving\n"), healthy.stderr
    assert "kitchen is in the fleet already" in invite(environment)
