"""nanofleet-agent as a person meets it: its text and its exit codes, also when things are wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent import cli
from tests import disks
from tests.agent.authority import Authority
from tests.agent.daemon import NAME, ROOT, Daemon


def run(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments, "--state", str(state)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_of_a_running_agent(shared_daemon: Daemon) -> None:
    shown = run("status", state=shared_daemon.state)
    assert shown.returncode == 0, shown.stderr
    assert f"device  {NAME}, agent" in shown.stdout
    assert "model   none loaded" in shown.stdout
    assert "jobs    0 active" in shown.stdout

    shown = run("status", "-o", "json", state=shared_daemon.state)
    assert json.loads(shown.stdout)["device"]["name"] == NAME


def test_a_full_disk_is_no_defect_of_ours(tmp_path: Path, authority: Authority) -> None:
    with disks.small_disk(tmp_path / "disk", 1 << 20) as disk:
        daemon = Daemon(disk / "state", authority)
        disks.fill(disk)
        shown = run("run", state=daemon.state)
    assert shown.returncode == 5
    assert "error: The journal cannot be written: the disk is full." in shown.stderr
    assert "fix: Free space on the device" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_status_without_an_agent(daemon: Daemon) -> None:
    shown = run("status", state=daemon.state)
    assert shown.returncode == 4
    assert "error: No agent is running" in shown.stderr
    assert "nanofleet-agent run" in shown.stderr


def test_health_of_a_running_agent(shared_daemon: Daemon) -> None:
    shown = run("health", state=shared_daemon.state)
    assert (shown.returncode, shown.stdout) == (0, "serving\n"), shown.stderr
    shown = run("health", "-o", "json", state=shared_daemon.state)
    assert json.loads(shown.stdout)["status"] == "serving"


def test_health_without_an_agent(daemon: Daemon) -> None:
    shown = run("health", state=daemon.state)
    assert shown.returncode == 4
    assert "error: No agent is running" in shown.stderr


@pytest.mark.parametrize("command", ["run", "status", "health"])
def test_a_device_that_has_not_joined(tmp_path: Path, command: str) -> None:
    shown = run(command, state=tmp_path)
    assert shown.returncode == 4
    assert "has not joined a fleet" in shown.stderr
    assert "nanofleet-agent join TOKEN" in shown.stderr


def test_a_port_that_is_taken(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run("run", "--host", "127.0.0.1", "--port", str(port), state=daemon.state)
    assert shown.returncode == 5
    assert f"error: Port {port} is taken by another program." in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_address_that_is_not_ours(daemon: Daemon) -> None:
    shown = run("run", "--host", "192.0.2.1", "--port", "0", state=daemon.state)
    assert shown.returncode == 2
    assert "Cannot listen on 192.0.2.1:0" in shown.stderr


def test_a_second_agent_on_the_same_state(shared_daemon: Daemon) -> None:
    shown = run("run", "--host", "127.0.0.1", "--port", "0", state=shared_daemon.state)
    assert shown.returncode == 5
    assert "is running with the state folder" in shown.stderr


def test_it_stops_quietly_and_frees_its_folder(daemon: Daemon) -> None:
    daemon.start()
    assert "Traceback" not in daemon.stop()
    daemon.start()
    daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_are_an_orderly_end(daemon: Daemon, number: signal.Signals) -> None:
    daemon.start()
    assert "Traceback" not in daemon.stop(number)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listen]\nprot = 7401\n", "Did you mean listen.port?"),
        ("[listning]\n", "Did you mean listen?"),
        ("[listen]\nport = '7401'\n", "listen.port must be of type int"),
        ("[listen]\nport = -1\n", "listen.port must not be negative"),
        ("listen = 3\n", "must be a table"),
        ('[training]\ndevice = "gpu"\n', 'training.device must be "cpu", "cuda" or empty'),
        ("[listen\n", "is not TOML"),
    ],
)
def test_mistakes_in_the_settings(daemon: Daemon, text: str, said: str) -> None:
    (daemon.state / "agent.toml").write_text(text)
    shown = run("run", "--port", "0", state=daemon.state)
    assert shown.returncode == 2
    assert said in shown.stderr


def test_a_certificate_that_is_none(tmp_path: Path, authority: Authority) -> None:
    daemon = Daemon(tmp_path / "state", authority)
    (daemon.state / "identity" / "chain.pem").write_bytes(authority.pem)
    shown = run("run", state=daemon.state)
    assert shown.returncode == 5
    assert "no certificate of a device" in shown.stderr


@pytest.mark.parametrize(
    "command", ["run", "join", "status", "health", "doctor", "install", "uninstall", "version"]
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  nanofleet-agent {command}" in capsys.readouterr().out


def test_a_reader_that_went_away() -> None:
    """`nanofleet-agent … | head` is no error."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", "version", "-o", "json"],
            cwd=ROOT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_the_daemon_is_light() -> None:
    """What it must never load; each would cost more memory than the agent has."""
    heavy = "torch transformers numpy llama_cpp cryptography jinja2 rich typer importlib.metadata"
    code = f"import agent.daemon, sys; print([m for m in '{heavy}'.split() if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                           check=True)  # fmt: skip
    assert shown.stdout == "[]\n"
