import asyncio
from pathlib import Path

import pytest

from agent.telemetry.blocks import BLOCK_BYTES
from agent.telemetry.recorder import record
from agent.telemetry.ring import TelemetryRing
from agent.telemetry.sampler import Sampler


async def recorded(folder: Path, samples: int, period_s: float) -> tuple[list[int], list[float]]:
    """The numbers of at least ``samples`` samples, and the waits between them; nobody waits."""
    ring = TelemetryRing(folder / "ring", 4 * BLOCK_BYTES)
    waits_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)
        await asyncio.sleep(0)

    sampler = Sampler(Path("/"), lambda: ())
    recording = asyncio.create_task(record(sampler, ring, period_s=period_s, sleep=sleep))
    await asyncio.wait_for(ring.wait(samples - 1), 30)
    recording.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recording
    numbers = [kept.seq for kept in ring.after(0)]
    ring.close()
    return numbers, waits_s


async def test_a_sample_for_each_beat_until_cancelled(tmp_path: Path) -> None:
    numbers, waits_s = await recorded(tmp_path, 150, period_s=1.0)
    # The beat is kept: nobody slept here, so each wait is one period longer than the one before.
    assert waits_s[0] <= 1.0
    assert 100 < waits_s[148] <= 149
    assert numbers[:149] == list(range(1, 150))


async def test_beat_that_was_missed_is_left_out(tmp_path: Path) -> None:
    """After a sample that took longer than its period the next one comes at once, and only one."""
    _, waits_s = await recorded(tmp_path, 5, period_s=1e-9)
    assert all(wait_s <= 1e-6 for wait_s in waits_s)
