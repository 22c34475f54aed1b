"""Fixtures of the agent's tests: a fleet's authority, and a running agent that it has certified."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import dataset
from tests.agent.authority import Authority
from tests.agent.daemon import Daemon
from tests.agent.kitchen import Kitchen


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


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    plain, packed = folder / "plain.jsonl", folder / "plain.jsonl.zst"
    lines = [
        {"messages": [
            {"role": "user", "content": f"What is {a} and {b}?"},
            {"role": "assistant", "content": f"It is {a + b}, of course."},
        ]}
        for a in range(4) for b in range(4)
    ]  # fmt: skip
    plain.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset.compress(plain, packed)
    return packed


@pytest.fixture
def kitchen(daemon: Daemon, tiny_base: Path, tiny_dataset: Path) -> Kitchen:
    daemon.start()
    return Kitchen(daemon, tiny_base, tiny_dataset)
