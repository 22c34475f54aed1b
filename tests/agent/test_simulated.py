"""`nanofleet-agent run --board`: a real agent on a board that is not there."""

from pathlib import Path

import pytest

from agent import cli
from agent.workers import limits
from protos.nanofleet.v1 import device_pb2, job_pb2
from tests.agent.daemon import Daemon
from tests.agent.kitchen import Kitchen, ended, submit


async def test_a_job_on_a_simulated_board_is_stamped_and_labelled(
    daemon: Daemon, tiny_base: Path, tiny_dataset: Path
) -> None:
    daemon.start("--board", "orin-nano-4gb")
    kitchen = Kitchen(daemon, tiny_base, tiny_dataset)
    async with daemon.stubs() as stubs:
        device = (await stubs.device.GetDevice(device_pb2.GetDeviceRequest())).device
        board = device.board
        assert (board.simulated, board.module, board.cpu_count) == (
            "orin-nano-4gb",
            "p3767-0004",
            6,
        )
        assert (board.architecture, board.power_mode) == ("aarch64", "10W (0)")
        assert board.memory_total_bytes == 3_900_000 * 1024
        assert device.memory_budget_bytes < board.memory_total_bytes
        assert {zone.name for zone in board.zones} >= {"cpu-thermal", "tj-thermal"}
        assert board.clocks_pinned is False

        await kitchen.stock(stubs)
        await submit(stubs, kitchen.spec())
        job = await ended(stubs)
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
        found = job.result.circumstances
        assert found == job.attempts[0].circumstances
        assert found.simulated
        assert (found.power_mode, found.cores_online) == ("10W (0)", 6)
        assert found.power_source == "VDD_IN"
        assert found.heat_zone == "tj-thermal"
        assert 44 < found.mean_celsius <= found.peak_celsius < 99
        assert 3_700 < found.mean_power_mw < 9_300
        assert job.result.energy_j == found.energy_j > 0
        assert {one.name: one.events for one in found.over_current} == {
            "OC1 under-voltage": 0,
            "OC2 average over-current": 0,
            "OC3 instantaneous over-current": 0,
        }

        request = device_pb2.WatchTelemetryRequest()
        async for response in stubs.device.WatchTelemetry(request):
            samples = response.samples
            break
        assert all(sample.simulated for sample in samples)
        assert max(sample.power.total_mw for sample in samples) > 4_000, "the panel is alive"


def test_workers_are_held_below_the_size_of_the_board(daemon: Daemon) -> None:
    """Where this machine lets us: a real control group around all workers of the board."""
    found = limits.find()
    daemon.start("--board", "nano-2gb")
    group = Path("nanofleet") / f"board-{daemon.state.stat().st_ino}"
    rest_bytes = (2_027_000 - 2_027_000 // 6) * 1024
    if isinstance(found, limits.VersionOne):
        text = (found.root / "memory" / group / "memory.limit_in_bytes").read_text()
    elif isinstance(found, limits.VersionTwo):
        text = (found.root / group / "memory.max").read_text()
    else:
        assert found.why
        return
    assert abs(int(text) - rest_bytes) < 64 << 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--board", "nano-5gb"), "There is no board 'nano-5gb'"),
        (("--root", "/"), "--root says nothing without --board"),
        (("--board", "nano-4gb", "--root", "/nowhere"), "not the tree of a board"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["run", "--state", str(tmp_path), *arguments]) != 0
    assert said in capsys.readouterr().err
