"""The note about the model that was served last."""

import logging
from pathlib import Path

import pytest

from agent.serving.last_served import MOST_ADAPTERS, LastServed, Served
from artifacts.digest import of_bytes

SERVED = Served(of_bytes(b"base"), 2048, (of_bytes(b"a"), of_bytes(b"b")), is_opening=True)


def test_it_comes_back_as_it_was_and_can_be_forgotten(tmp_path: Path) -> None:
    last = LastServed(tmp_path / "served.json")
    assert last.read() is None
    last.write(SERVED)
    assert last.read() == SERVED
    last.forget()
    last.forget()
    assert last.read() is None


def test_the_adapters_used_last_are_kept(tmp_path: Path) -> None:
    served = SERVED.using(of_bytes(b"a"))
    assert served.adapter_digests == (of_bytes(b"b"), of_bytes(b"a"))
    for number in range(9):
        served = served.using(of_bytes(str(number).encode()))
    assert len(served.adapter_digests) == MOST_ADAPTERS
    assert served.adapter_digests[-1] == of_bytes(b"8")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format_version": 2}',
        b'{"format_version": 1, "base_digest": "../x", "context_length": 1}',
        b'{"format_version": 1, "base_digest": 7}',
    ],
)
def test_a_file_that_cannot_be_used_is_left_aside_with_a_line_in_the_log(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "served.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert LastServed(tmp_path / "served.json").read() is None
    assert "no model is loaded at the start" in caplog.text


def test_a_disk_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = LastServed(tmp_path / "no folder" / "served.json")
    last.write(SERVED)
    last.forget()
    assert "is not remembered" in caplog.text
    assert "cannot be removed" in caplog.text
