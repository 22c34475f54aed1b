"""Fixtures of the agent's tests: a fleet's authority, and a running agent that it has certified."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.authority import Authority
from tests.agent.daemon import Daemon


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def daemon(tmp_path: Path, authority: Authority) -> Iterator[Daemon]:
    """An agent that is not running yet; it is stopped after the test."""
    agent = Daemon(tmp_path / "state", authority)
    yield agent
    agent.kill()


@pytest.fixture(scope="module")
def shared_daemon(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Daemon]:
    """A running agent for the tests of a module that leave it as it was."""
    agent = Daemon(tmp_path_factory.mktemp("agent") / "state", authority)
    agent.start()
    yield agent
    agent.stop()
