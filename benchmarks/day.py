"""A day of a simulated board in the telemetry ring, in a few minutes.

The clock is made; everything else is what an agent has: the board's files move, the sampler reads
them, the ring writes. The course of load is drawn with a fixed seed: stretches of rest, of requests
and of training, half an hour on average. While it trains there is a worker, with a loss that falls.
"""

import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.telemetry.blocks import BLOCK_BYTES
from agent.telemetry.ring import CAPACITY_BYTES, TelemetryRing
from agent.telemetry.sampler import Sampler, WorkerStatus
from agent.telemetry.simulation import Wanted
from jetson.simulation import replay
from jetson.simulation.boards import BOARDS
from jetson.simulation.plant import Plant
from jetson.simulation.replay import Replay
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample, WorkerSample

SECONDS = 86_400
_SEED = 7
_S = 10**9
_STRETCH_S = 1800.0
# Of load; and how likely a stretch is.
_STRETCHES = {"rest": (0.02, 5), "requests": (0.4, 2), "training": (0.85, 3)}
_TOKENS_PER_S = 180.0
# What a sensor of a board shows while nothing changes, around its value.
_TREMBLING_CELSIUS = (-0.5, -0.25, -0.125, 0.0, 0.0, 0.0, 0.125, 0.25, 0.5)
_TREMBLING_POWER = 0.02
_TREMBLING_BYTES = 8 << 20
_PAGE_BYTES = 4096
_EPOCH_NS = 1_800_000_000 * _S
_LARGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """``day_bytes``: the blocks that were written to, in a ring that has room for all of them.
    ``samples``: those that a ring of the usual size, ``file_bytes``, has at the end of the day."""

    day_bytes: int
    samples: int
    file_bytes: int
    plain_bytes_per_sample: float
    append_us: float


class _Clock:
    now_ns = 40 * _S

    def __call__(self) -> int:
        return self.now_ns


class _Board:
    """Moves the live tree below ``root`` by a drawn course of load."""

    def __init__(self, wanted: Wanted, root: Path, draw: random.Random) -> None:
        assert wanted.recorded is not None
        replay.copy(wanted.recorded, root)
        self._replay = Replay(root)
        self._plant = Plant(BOARDS[wanted.board].draw)
        self._draw = draw
        self._stretch = "rest"
        self._step = 0
        self._busy_s = self._passed_s = 0.0

    def move(self) -> None:
        """By a second."""
        if self._draw.random() < 1 / _STRETCH_S:
            weights = [weight for _, weight in _STRETCHES.values()]
            (self._stretch,) = self._draw.choices(list(_STRETCHES), weights)
        usual, _ = _STRETCHES[self._stretch]
        load = min(1.0, max(0.0, self._draw.gauss(usual, usual / 5)))
        self._busy_s += load
        self._passed_s += 1.0
        self._plant.pass_time(1.0, load)
        self._replay.move(
            power_mw=self._plant.power_mw,
            rise_celsius=self._plant.rise_celsius,
            load=load,
            available_bytes=self._replay.available_bytes - round(load * (1 << 30)),
        )

    def cpu_times(self) -> tuple[float, float]:
        return self._busy_s, self._passed_s

    def workers(self) -> list[WorkerStatus]:
        if self._stretch != "training":
            return []
        self._step += 1
        return [
            WorkerStatus(
                kind=WorkerSample.KIND_TRAINING,
                pid=os.getpid(),
                tokens_per_s=self._draw.gauss(_TOKENS_PER_S, 5),
                job_id="01JD0000000000000000000000",
                step=self._step // 12,
                total_steps=SECONDS,
                loss=4 * math.exp(-self._step / SECONDS) + self._draw.gauss(0, 0.1),
                time_to_go_s=(SECONDS - self._step) * 12.0,
            )
        ]


def record(scratch: Path, wanted: Wanted, seconds: int = SECONDS) -> Mapping[str, Kept]:
    """What a day takes, of the board as it is simulated and of one whose sensors tremble."""
    clock, draw = _Clock(), random.Random(_SEED)
    root = scratch / "board"
    board = _Board(wanted, root, draw)
    sampler = Sampler(
        root, board.workers, state=scratch, boottime_ns=clock, utc_ns=lambda: _EPOCH_NS + clock(),
        cpu_times=board.cpu_times, is_simulated=True,
    )  # fmt: skip
    days = {"as simulated": _Day(scratch / "plain"), "trembling": _Day(scratch / "trembling")}
    for _ in range(seconds):
        # A beat is late by what the machine is busy with.
        clock.now_ns += _S + round(draw.gauss(0, 500_000))
        board.move()
        sample = sampler.sample()
        days["as simulated"].append(sample)
        days["trembling"].append(_trembled(sample, draw))
    return {name: one.end() for name, one in days.items()}


class _Day:
    """One ring of the usual size, and one that has room for whatever it takes."""

    def __init__(self, folder: Path) -> None:
        self._usual_path, self._large_path = folder / "usual", folder / "large"
        self._usual = TelemetryRing(self._usual_path, CAPACITY_BYTES)
        self._large = TelemetryRing(self._large_path, _LARGE_BYTES)
        self._appended = self._plain_bytes = self._spent_ns = 0

    def append(self, sample: TelemetrySample) -> None:
        began_ns = time.process_time_ns()
        self._usual.append(sample)
        self._spent_ns += time.process_time_ns() - began_ns
        self._large.append(sample)
        self._appended += 1
        self._plain_bytes += sample.ByteSize()

    def end(self) -> Kept:
        held = sum(1 for _ in self._usual.after(0))
        file_bytes = self._usual_path.stat().st_size
        for ring in (self._usual, self._large):
            ring.close()
        written = sum(1 for block in _blocks(self._large_path) if any(block))
        return Kept(
            written * BLOCK_BYTES,
            held,
            file_bytes,
            self._plain_bytes / self._appended,
            self._spent_ns / 1000 / self._appended,
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _trembled(sample: TelemetrySample, draw: random.Random) -> TelemetrySample:
    found = TelemetrySample()
    found.CopyFrom(sample)
    for zone in found.temperatures:
        zone.celsius = round(zone.celsius + draw.choice(_TREMBLING_CELSIUS), 3)
    found.heat.celsius = max(zone.celsius for zone in found.temperatures)
    for rail in found.power.rails:
        rail.power_mw = max(0, round(draw.gauss(rail.power_mw, rail.power_mw * _TREMBLING_POWER)))
    found.power.total_mw = sum(rail.power_mw for rail in found.power.rails)
    found.memory.available_bytes += draw.randrange(-_TREMBLING_BYTES, _TREMBLING_BYTES, _PAGE_BYTES)
    found.network.received_bytes += draw.randrange(4_096)
    return found
