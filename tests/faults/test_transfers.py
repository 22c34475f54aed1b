"""An agent that is killed again and again in the middle of a transfer costs a few MiB each time."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import digest as digests
from controller import Fleet, TransferProgress
from protos.nanofleet.v1 import artifact_pb2
from tests.faults.lab import DEVICE, Lab

KIND = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
MIB = 1 << 20
# What a kill may cost: what was not synced yet.
MOST_AGAIN_BYTES = 4 * MIB


class Killer:
    """Ends the agent each time another tenth of the bytes has gone, and starts it again."""

    def __init__(self, lab: Lab, size_bytes: int, kills: int) -> None:
        self._lab = lab
        self._step = size_bytes // (kills + 1)
        self._left = kills
        self.kills = 0

    def __call__(self, progress: TransferProgress) -> None:
        if self._left and progress.moved_bytes >= self._step * (self.kills + 1):
            self._left -= 1
            self.kills += 1
            self._lab.device.stop(signal.SIGKILL)
            self._lab.device.start()


@pytest.fixture
def lab(born: Lab, tmp_path: Path) -> Iterator[Lab]:
    lab = born.copy(tmp_path / "lab")
    yield lab
    lab.device.stop(signal.SIGKILL)


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Bytes, and kills."""
    if request.config.getoption("faults") == "all":
        return 1024 * MIB, 10
    return 96 * MIB, 5


async def test_ten_kills_in_the_middle_of_an_upload(lab: Lab, sizes: tuple[int, int]) -> None:
    size_bytes, kills = sizes
    source = lab.folder / "large"
    write_noise(source, size_bytes)
    lab.device.start()
    async with Fleet.open(lab.home) as fleet:
        entry = await fleet.add_artifact(source, KIND, name="large")
        killer = Killer(lab, size_bytes, kills)
        (sent,) = await fleet.push("large", DEVICE, killer)
        assert killer.kills == kills
        again_bytes = sent.sent_bytes - size_bytes
        print(f"{again_bytes / MIB / kills:.2f} MiB sent again for each of {kills} kills")
        assert 0 <= again_bytes <= kills * MOST_AGAIN_BYTES
        (held,) = [a for a in await fleet.remote_artifacts(DEVICE) if a.digest == entry.digest]
        assert held.size_bytes == size_bytes

        killer = Killer(lab, size_bytes, kills)
        pulled = await fleet.pull(DEVICE, entry.digest, lab.folder / "back", killer)
        assert killer.kills == kills
        # What came through before the kill is not asked for again.
        assert pulled.sent_bytes == size_bytes
        assert digests.of_file(lab.folder / "back") == entry.digest


def write_noise(path: Path, size_bytes: int) -> None:
    noise = random.Random(7)
    with path.open("wb") as file:
        for _ in range(0, size_bytes, MIB):
            file.write(noise.randbytes(MIB))
