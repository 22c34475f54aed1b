"""Labs that are made once and copied, and what a run that nobody disturbs comes to."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import oracle
from tests.faults.lab import Lab
from tests.faults.oracle import Outcome

NOISE_BYTES = (9 << 20) + 5


def make(folder: Path) -> Lab:
    lab = Lab(folder)
    (folder / "port").write_text(str(lab.device.port))
    (folder / "noise").write_bytes(os.urandom(NOISE_BYTES))
    return lab


@pytest.fixture(scope="session")
def newborn() -> Callable[[Path], Lab]:
    """A lab with nothing in it."""
    return make


@pytest.fixture(scope="session")
def born(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A fleet with a device, a model and a dataset."""
    lab = make(tmp_path_factory.mktemp("labs") / "born")
    lab.play("birth")
    shutil.copyfile(lab.home / "fleet.db", lab.folder / "unstocked.db")
    lab.play("stock")
    return lab


@pytest.fixture(scope="session")
def lived(born: Lab) -> Lab:
    """The same after a job that nobody disturbed; its adapter has spoken."""
    lab = born.copy(born.folder.with_name("lived"))
    lab.device.start()
    lab.play("life")
    lab.play("speech")
    lab.device.stop()
    oracle.check_stores(lab)
    return lab


@pytest.fixture(scope="session")
def expected(lived: Lab) -> Outcome:
    return oracle.outcome(lived, "persona")


@pytest.fixture(scope="session")
def said(lived: Lab) -> str:
    return (lived.folder / "said").read_text()
