"""The unit: its promises, and systemd's own opinion of it where systemd is installed."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.install.unit import unit

PROGRAM = Path("/bin/true")
# Of ten; what is left is the network, the GPU's devices, and the groups of the workers.
MOST_EXPOSED = 20


def written(folder: Path) -> Path:
    path = folder / "nanofleet-agent.service"
    path.write_text(unit(PROGRAM, {"OPENBLAS_CORETYPE": "ARMV8", "A": "1"}))
    return path


def service(text: str) -> list[tuple[str, str]]:
    lines = text.partition("[Service]")[2].partition("[Install]")[0].splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return [(key, value) for key, _, value in pairs]


def test_it_is_written_as_systemd_reads_it() -> None:
    text = unit(PROGRAM, {})
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    assert parser.sections() == ["Unit", "Service", "Install"]
    settings = dict(service(text))
    assert settings["Type"] == "notify"
    assert settings["User"] == "nanofleet"
    assert settings["StateDirectory"] == "nanofleet"
    assert (settings["Restart"], settings["WatchdogSec"]) == ("always", "120")
    assert settings["Delegate"] == "memory"
    assert settings["CapabilityBoundingSet"] == ""
    # More time than the agent gives the checkpoint of a running job.
    assert int(settings["TimeoutStopSec"]) > 60


def test_nothing_is_said_twice_but_lists() -> None:
    keys = [key for key, _ in service(unit(PROGRAM, {}))]
    assert {key for key in keys if keys.count(key) > 1} == {"DeviceAllow"}


def test_the_boards_environment() -> None:
    given = service(unit(PROGRAM, {"OPENBLAS_CORETYPE": "ARMV8", "A": "1"}))
    assert [value for key, value in given if key == "Environment"] == [
        "A=1",
        "OPENBLAS_CORETYPE=ARMV8",
    ]


@pytest.mark.parametrize(
    "arguments",
    [("verify",), ("security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}")],
)
def test_systemd_agrees(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """It says nothing of a unit that is right. Where it is not installed, it has no opinion."""
    path = written(tmp_path)
    tool = shutil.which("systemd-analyze") or "true"
    done = subprocess.run(
        [tool, *arguments, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
