"""The note about the model that was served last, as the next start reads it."""

import asyncio
import logging
from pathlib import Path

import pytest

from agent.serving.last_served import MOST_ADAPTERS, LastServed, Served
from artifacts.digest import of_bytes

BASE, A, B = of_bytes(b"base"), of_bytes(b"a"), of_bytes(b"b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "served.json"


async def left(path: Path) -> Served | None:
    return await LastServed(path).read()


async def test_each_step_is_on_the_disk(path: Path) -> None:
    last = LastServed(path)
    assert await last.read() is None
    await last.opening(BASE, 2048)
    assert await left(path) == Served(BASE, 2048, is_opening=True)
    await last.opened()
    for adapter in (A, B, A):
        await last.used(BASE, adapter)
    await last.used(of_bytes(b"another base"), of_bytes(b"c"))
    assert await left(path) == Served(BASE, 2048, (A, B))
    await last.opening(BASE, 512)
    await last.opened()
    assert await left(path) == Served(BASE, 512, (A, B)), "the adapters are still in use"
    await last.unusable(A)
    assert await left(path) == Served(BASE, 512, (B,))
    await last.opening(of_bytes(b"another base"), 512)
    assert await left(path) == Served(of_bytes(b"another base"), 512, is_opening=True)
    await last.forget()
    await last.forget()
    await last.opened()
    assert await left(path) is None


async def test_the_newest_adapters_are_kept(path: Path) -> None:
    last = LastServed(path)
    await last.opening(BASE, 2048)
    for number in range(9):
        await last.used(BASE, of_bytes(str(number).encode()))
    found = await left(path)
    assert found
    assert len(found.adapter_digests) == MOST_ADAPTERS
    assert found.adapter_digests[-1] == of_bytes(b"8")


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
    content: bytes, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(left(path)) is None
    assert "no model is loaded at the start" in caplog.text


async def test_a_disk_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = LastServed(tmp_path / "no folder" / "served.json")
    await last.opening(BASE, 2048)
    await last.forget()
    assert "is not remembered" in caplog.text
    assert "cannot be removed" in caplog.text
