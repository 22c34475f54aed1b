"""Wrong clocks, on either side and in both directions: certificates hold, jobs run, order stays.

The programs are lied to by libfaketime, which changes what the system says the time is.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from protos.nanofleet.v1 import job_pb2
from tests.faults import oracle
from tests.faults.lab import NOTHING, Lab
from tests.faults.oracle import Outcome

FAKETIME = "faketime"
# Boards without a battery wake up then; of a fleet's certificates it is the first day.
EPOCH = "1970-01-02 00:00:00"
# Within the life of a device's certificate.
LATER = "+200d"
# After all certificates have ended.
TOO_LATE = "2095-01-01 00:00:00"


def clock(told: str) -> Mapping[str, str]:
    """What makes a program believe it. Its wrapper would stand between us and the program."""
    assert shutil.which(FAKETIME), "libfaketime is needed: apt-get install faketime"
    asked = [FAKETIME, "-f", "+0", "printenv", "LD_PRELOAD"]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    form = told if told.startswith("+") else f"@{told}"
    # Durations are measured by clocks that nobody sets; those stay true.
    return {"LD_PRELOAD": library, "FAKETIME": form, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture
def lab(born: Lab, tmp_path: Path) -> Iterator[Lab]:
    lab = born.copy(tmp_path / "lab")
    yield lab
    lab.device.stop(signal.SIGKILL)


# What the agent's clock says, and the controller's; empty: the truth.
CLOCKS = {
    "agent 1970": (EPOCH, ""),
    "agent ahead": (LATER, ""),
    "controller 1970": ("", EPOCH),
    "controller ahead": ("", LATER),
}
SHORT = "agent 1970"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "controller" in metafunc.fixturenames:
        is_long = metafunc.config.getoption("faults") == "all"
        chosen = CLOCKS if is_long else {SHORT: CLOCKS[SHORT]}
        metafunc.parametrize(("agent", "controller"), chosen.values(), ids=list(chosen))


def test_a_job_under_a_wrong_clock(
    lab: Lab, expected: Outcome, agent: str, controller: str
) -> None:
    wrong = clock(agent) if agent else NOTHING
    lab.device.start(wrong)
    lab.play("life", agent=wrong, controller=clock(controller) if controller else NOTHING)
    lab.device.stop()
    oracle.check_job(lab, "persona", expected)
    oracle.check_stores(lab)


def test_a_clock_beyond_all_certificates_stops_no_job(lab: Lab, expected: Outcome) -> None:
    """Nobody can talk to the device then; it goes on by itself, and is heard when it is right."""
    lab.device.start()
    lab.play("submission")
    lab.device.stop(signal.SIGKILL)
    lab.device.start(clock(TOO_LATE))
    lab.play("silence")
    wait_until_succeeded(lab)
    lab.device.stop()
    lab.device.start()
    lab.play("life")
    lab.device.stop()
    oracle.check_job(lab, "persona", expected)


def wait_until_succeeded(lab: Lab) -> None:
    """By its own journal: nobody else knows."""
    for _ in range(600):
        events = oracle.journalled(lab)
        if events and events[-1].transition.to == job_pb2.JOB_STATE_SUCCEEDED:
            return
        time.sleep(0.1)
    raise AssertionError(lab.device.said())
