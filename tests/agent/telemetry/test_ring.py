import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.telemetry import blocks
from agent.telemetry.blocks import BLOCK_BYTES, BlockHeader, BlockKind
from agent.telemetry.ring import MOST_UNSYNCED, TelemetryRing
from agent.telemetry.ring_file import SAMPLE_PLACES
from protos.errors import DiskFull
from tests.agent.telemetry.samples import NEXT_BOOT, sample

SMALL = 4 * BLOCK_BYTES
# More samples than a small ring has room for.
MANY = 12_000


def fill(ring: TelemetryRing, count: int) -> None:
    for number in range(count):
        ring.append(sample(number))


def seqs(ring: TelemetryRing, after: int = 0) -> list[int]:
    return [kept.seq for kept in ring.after(after)]


def test_new_ring_is_empty_and_has_its_whole_size(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "telemetry.ring"
    ring = TelemetryRing(path, SMALL)
    assert (ring.newest_seq, ring.newest(), seqs(ring)) == (0, None, [])
    assert path.stat().st_size == SMALL
    assert path.stat().st_blocks * 512 >= SMALL
    ring.close()
    ring.close()


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    appended = [ring.append(sample(number)) for number in range(300)]
    assert [kept.seq for kept in appended] == list(range(1, 301))
    assert list(ring.after(0)) == appended
    assert ring.newest() == appended[-1]
    ring.close()
    again = TelemetryRing(tmp_path / "ring", SMALL)
    assert list(again.after(0)) == appended
    assert again.newest() == appended[-1]
    again.close()


@pytest.mark.parametrize("after", [0, 1, 99, 179, 180, 181, 299, 300, 1000])
def test_replay_starts_anywhere(tmp_path: Path, after: int) -> None:
    """From memory, from the disk, and across the edge of both."""
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    fill(ring, 300)
    assert seqs(ring, after) == list(range(after + 1, 301))
    ring.close()


def test_ring_keeps_its_size_and_its_newest(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, MANY)
    kept = seqs(ring)
    assert path.stat().st_size == SMALL
    assert kept == list(range(kept[0], MANY + 1))
    # What two blocks of samples alone would hold, ten times.
    assert 4_000 < len(kept) < MANY
    ring.close()
    again = TelemetryRing(path, SMALL)
    assert seqs(again) == kept
    assert again.append(sample(MANY)).seq == MANY + 1
    again.close()


def test_reader_that_is_overtaken_goes_on_with_the_oldest(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    fill(ring, 400)
    reading = ring.after(0)
    assert next(reading).seq == 1
    fill(ring, MANY)
    rest = [kept.seq for kept in reading]
    assert rest[-1] == 400 + MANY
    assert rest[0] < 400 < rest[len(rest) // 10]
    assert rest == sorted(set(rest))
    ring.close()


def test_other_boot_jumps_over_what_a_power_cut_may_have_taken(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    fill(ring, 10)
    ring.close()
    again = TelemetryRing(tmp_path / "ring", SMALL)
    assert again.append(sample(10)).seq == 11
    assert again.append(sample(11, NEXT_BOOT)).seq == 12 + MOST_UNSYNCED
    assert again.append(sample(12, NEXT_BOOT)).seq == 13 + MOST_UNSYNCED
    assert seqs(again, 9) == [10, 11, 12 + MOST_UNSYNCED, 13 + MOST_UNSYNCED]
    again.close()


@pytest.mark.parametrize("capacity", [4 * BLOCK_BYTES, 5 * BLOCK_BYTES, 9 * BLOCK_BYTES])
def test_other_capacity_keeps_the_newest_that_fit(tmp_path: Path, capacity: int) -> None:
    path = tmp_path / "ring"
    ring = TelemetryRing(path, 6 * BLOCK_BYTES)
    fill(ring, MANY)
    before = list(ring.after(0))
    ring.close()
    other = TelemetryRing(path, capacity)
    kept = list(other.after(0))
    assert path.stat().st_size == capacity
    assert kept == before[-len(kept) :]
    assert len(kept) == len(before) if capacity > 6 * BLOCK_BYTES else len(kept) > 2_000
    assert other.append(sample(MANY)).seq == MANY + 1
    fill(other, 2000)
    assert seqs(other)[-1] == MANY + 2001
    other.close()


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * SMALL, b"\0" * (SMALL + 17)])
def test_foreign_file_becomes_a_ring(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ring"
    path.write_bytes(content)
    ring = TelemetryRing(path, SMALL)
    assert ring.append(sample(0)).seq == 1
    ring.close()
    assert path.stat().st_size == SMALL


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x55]))


def test_every_damaged_byte_of_a_record_costs_that_sample_alone(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 5)
    ring.close()
    third = blocks.BLOCK_HEADER_BYTES + sum(len(ring_record(seq)) for seq in (1, 2))
    for offset in range(third, third + len(ring_record(3))):
        flip(path, offset)
        damaged = TelemetryRing(path, SMALL)
        assert seqs(damaged) == [1, 2, 4, 5], offset
        assert damaged.newest_seq == 5
        damaged.close()
        flip(path, offset)
    whole = TelemetryRing(path, SMALL)
    assert seqs(whole) == [1, 2, 3, 4, 5]
    whole.close()


def ring_record(seq: int) -> bytes:
    kept = sample(seq - 1)
    kept.seq = seq
    return blocks.pack_record(seq, kept.SerializeToString())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_damaged_block_is_skipped_and_numbers_go_on(tmp_path: Path, place: int) -> None:
    """The newest block among them: a number that was given is not given again."""
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 700)
    whole = seqs(ring)
    ring.close()
    flip(path, place * BLOCK_BYTES + 6)
    damaged = TelemetryRing(path, SMALL)
    left = seqs(damaged)
    assert left == sorted(set(left))
    # The first block holds nothing that is not in a batch.
    assert set(left) < set(whole) if place else left == whole
    assert damaged.append(sample(700)).seq == 701
    damaged.close()


def test_damage_to_a_batch_costs_its_samples_alone(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 1000)
    ring.close()
    block = path.read_bytes()[SAMPLE_PLACES * BLOCK_BYTES :][:BLOCK_BYTES]
    first, second, third, *_ = blocks.parse_records(block)
    flip(path, SAMPLE_PLACES * BLOCK_BYTES + second.end - 9)
    damaged = TelemetryRing(path, SMALL)
    lost = range(first.seq + 1, second.seq + 1)
    assert [seq for seq in range(1, 1001) if seq not in lost] == seqs(damaged)
    assert seqs(damaged, first.seq)[0] == second.seq + 1 <= third.seq
    damaged.close()


def test_batch_that_a_power_cut_has_taken_is_made_again(tmp_path: Path) -> None:
    """Its samples are still there, one block long."""
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 250)
    before = list(ring.after(0))
    ring.close()
    with path.open("r+b") as file:
        file.seek(SAMPLE_PLACES * BLOCK_BYTES)
        file.write(b"\0" * BLOCK_BYTES)
    cut = TelemetryRing(path, SMALL)
    assert list(cut.after(0)) == before
    fill(cut, 1000)
    assert seqs(cut) == list(range(1, 1251))
    cut.close()


def test_block_is_not_overwritten_before_its_batch_is_synced(tmp_path: Path) -> None:
    """Of large samples a block has few: no sync would be due."""
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    for number in range(12):
        large = sample(number)
        large.workers[0].job_id = "x" * 20_000
        ring.append(large)
    assert ring._synced >= 6
    assert seqs(ring) == list(range(1, 13))
    ring.close()


@pytest.mark.parametrize("capacity", [16 * BLOCK_BYTES, SMALL])
def test_ring_of_an_older_agent_keeps_its_newest_and_its_numbers(
    tmp_path: Path, capacity: int
) -> None:
    """Single samples in all of its blocks."""
    path = tmp_path / "ring"
    with path.open("wb") as file:
        for number in range(16, 32):
            first = 100 * number + 1
            block = blocks.pack_header(BlockHeader(BlockKind.SAMPLES, number, first))
            for seq in range(first, first + 100):
                block += ring_record(seq)
            file.write(block.ljust(BLOCK_BYTES, b"\0"))
    ring = TelemetryRing(path, capacity)
    kept = seqs(ring)
    assert (ring.newest_seq, len(kept)) == (3200, 200)
    assert ring.append(sample(3200)).seq == 3201
    fill(ring, 1000)
    assert seqs(ring) == [*kept, *range(3201, 4202)]
    ring.close()


def test_torn_newest_record_is_written_over(tmp_path: Path) -> None:
    """What a power cut in the middle of a write leaves."""
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 5)
    ring.close()
    end = blocks.BLOCK_HEADER_BYTES + sum(len(ring_record(seq)) for seq in range(1, 6))
    with path.open("r+b") as file:
        file.seek(end - 100)
        file.write(b"\0" * 100)
    torn = TelemetryRing(path, SMALL)
    assert torn.newest_seq == 4
    torn.append(sample(5, NEXT_BOOT))
    assert seqs(torn) == [1, 2, 3, 4, 5 + MOST_UNSYNCED]
    torn.close()


def test_stale_bytes_after_the_newest_record_are_no_samples(tmp_path: Path) -> None:
    """A block that is begun again holds nothing of the one before."""
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, MANY)
    ring.close()
    again = TelemetryRing(path, SMALL)
    kept = seqs(again)
    assert kept == list(range(kept[0], MANY + 1))
    again.close()


WRITER = """
import sys
from pathlib import Path
from agent.telemetry.ring import TelemetryRing
from tests.agent.telemetry.samples import sample
ring = TelemetryRing(Path(sys.argv[1]), int(sys.argv[2]))
number = ring.newest_seq
while True:
    kept = ring.append(sample(number))
    number += 1
    print(kept.seq, flush=True)
"""


def test_kill_in_the_middle_of_appends_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    last = 0
    for kill_after in (1, 7, 150, 333, 700):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(SMALL)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(kill_after)]
            writer.send_signal(signal.SIGKILL)
            told += [int(line) for line in writer.stdout.read().splitlines() if line]
        assert told == list(range(last + 1, last + 1 + len(told)))
        ring = TelemetryRing(path, SMALL)
        # One more than was told may have been written.
        assert ring.newest_seq in (told[-1], told[-1] + 1)
        kept = list(ring.after(0))
        assert [one.seq for one in kept] == list(range(kept[0].seq, ring.newest_seq + 1))
        assert all(one.boottime_ns == (one.seq - 1) * 1_000_000_000 for one in kept)
        last = ring.newest_seq
        ring.close()


async def test_those_who_wait_are_woken(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    ring.append(sample(0))
    await ring.wait(0)
    waiting = [asyncio.create_task(ring.wait(seq)) for seq in (1, 1, 2)]
    await asyncio.sleep(0)
    ring.append(sample(1))
    await asyncio.wait_for(asyncio.gather(*waiting[:2]), 5)
    assert not waiting[2].done()
    ring.append(sample(2))
    await asyncio.wait_for(waiting[2], 5)
    ring.close()


async def test_sync_in_a_thread_beside_appends(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    syncing = asyncio.create_task(asyncio.to_thread(ring.sync))
    fill(ring, 3 * MOST_UNSYNCED)
    await syncing
    assert len(seqs(ring)) == 3 * MOST_UNSYNCED
    ring.close()


def test_write_that_fails_is_logged_and_those_who_watch_still_get_the_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ring"
    ring = TelemetryRing(path, SMALL)
    fill(ring, 3)
    writable, closed = os.dup(ring._descriptor), os.open(path, os.O_RDONLY)
    os.dup2(closed, ring._descriptor)
    with caplog.at_level(logging.WARNING):
        ring.append(sample(3))
        ring.append(sample(4))
    # Once, not each second.
    (said,) = caplog.messages
    assert said.startswith("samples from 4 on are not kept on disk: ")
    assert seqs(ring, 2) == [3, 4, 5]
    os.dup2(writable, ring._descriptor)
    ring.append(sample(5))
    ring.close()
    again = TelemetryRing(path, SMALL)
    assert seqs(again) == [1, 2, 3, 6]
    again.close()
    for descriptor in (writable, closed):
        os.close(descriptor)


def test_sample_too_long_for_a_block_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    ring = TelemetryRing(tmp_path / "ring", SMALL)
    long = sample(0)
    long.boot_id = "x" * BLOCK_BYTES
    with pytest.raises(ValueError, match="sample of"):
        ring.append(long)
    assert ring.append(sample(0)).seq == 1
    ring.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_room_is_said_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as refused:
        TelemetryRing(Path("/dev/full"), SMALL)
    assert "telemetry ring" in str(refused.value)
    assert refused.value.fix
