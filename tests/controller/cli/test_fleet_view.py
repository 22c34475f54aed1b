import pytest
from rich.console import Console

from controller.cli import fleet_screen, fleet_view, plain
from controller.cli.fleet_view import Activity, Row
from protos.nanofleet.v1 import telemetry_pb2

GB = 10**9


def sample(*workers: telemetry_pb2.WorkerSample) -> telemetry_pb2.TelemetrySample:
    return telemetry_pb2.TelemetrySample(
        memory=telemetry_pb2.MemorySample(total_bytes=8 * GB, available_bytes=5 * GB),
        workers=workers,
    )


TRAINING = telemetry_pb2.WorkerSample(
    kind=telemetry_pb2.WorkerSample.KIND_TRAINING,
    job_id="01JDX",
    step=48,
    total_steps=120,
    loss=1.25,
    tokens_per_s=182,
    time_to_go_s=133,
)
SERVING = telemetry_pb2.WorkerSample(
    kind=telemetry_pb2.WorkerSample.KIND_INFERENCE, tokens_per_s=28
)


def drawn(rows: list[Row], columns: int, lines: int = 24) -> str:
    console = Console(width=columns, color_system=None, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(fleet_screen.frame(fleet_view.headline("lab", rows), rows, columns, lines))
    return capture.get()


def test_training_wins_over_serving_and_names_its_job() -> None:
    row = fleet_view.row_of("kitchen", sample(SERVING, TRAINING), {"01JDX": "persona"})
    assert row.activity is Activity.TRAINING
    assert (row.job, row.step, row.total_steps, row.tokens_per_s) == ("persona", 48, 120, 182)
    assert row.memory_used_bytes == 3 * GB


def test_a_job_that_the_controller_does_not_know_shows_its_id() -> None:
    assert fleet_view.row_of("kitchen", sample(TRAINING), {}).job == "01JDX"


def test_what_is_absent_is_null() -> None:
    shown = fleet_view.as_plain(fleet_view.row_of("hall", sample(), {}))
    assert shown["power_mw"] is None
    assert shown["temperature_c"] is None
    assert shown["step"] is None
    assert shown["activity"] == "idle"
    json_keys = set(shown)
    assert json_keys == set(fleet_view.as_plain(Row("hall")))
    assert plain.message(sample())["power"] is None


def test_an_unreachable_device_shows_no_old_figures() -> None:
    row = fleet_view.row_of("kitchen", sample(TRAINING), {})
    gone = fleet_view.unreachable(row, "Cannot reach device kitchen.")
    assert gone.activity is Activity.UNREACHABLE
    assert gone.loss is None
    assert gone.memory_used_bytes is None


def test_what_needs_eyes_comes_first() -> None:
    rows = [
        fleet_view.row_of("a-idle", sample(), {}),
        fleet_view.row_of("b-trains", sample(TRAINING), {}),
        fleet_view.unreachable(Row("c-gone"), "Off."),
    ]
    assert [row.device for row in fleet_view.ordered(rows)] == ["c-gone", "b-trains", "a-idle"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_frame_fits(columns: int) -> None:
    rows = [
        fleet_view.row_of("kitchen", sample(TRAINING), {"01JDX": "persona"}),
        fleet_view.unreachable(Row("hall"), "Cannot reach device hall (10.0.0.8:7401): refused."),
    ]
    shown = drawn(rows, columns)
    assert max(map(len, shown.splitlines())) <= columns
    assert "lab: 2 devices, 1 unreachable, 1 training, 182 tokens/s" in shown
    kitchen = next(line for line in shown.splitlines() if line.startswith("kitchen"))
    for part in ("training", "3.0/8.0 GB", "persona", "48/120", "1.250", "2:13", "–"):
        assert part in kitchen
    assert "hall: Cannot reach device hall" in shown


def test_a_large_fleet_is_cut_to_the_window_and_says_so() -> None:
    rows = [fleet_view.row_of(f"device-{number:03}", sample(), {}) for number in range(100)]
    shown = drawn(rows, 80, lines=20)
    assert len(shown.splitlines()) <= 20
    assert "… and 85 more" in shown
    assert "device-000" in shown


def test_the_memory_bar_is_never_empty_nor_too_long() -> None:
    for used in (0, 1, GB, 8 * GB, 9 * GB):
        bar = fleet_screen.memory_bar(used, 8 * GB, 10).plain.split(" ")[0]
        assert len(bar) == 10
        assert bar.startswith("━")


def test_what_no_sensor_has_measured_is_marked() -> None:
    taken = sample()
    taken.power.total_mw = 7_200
    taken.heat.celsius = 54.0
    taken.temperatures.add(zone="nvme Composite", celsius=71.0)
    taken.simulated = True
    rows = [fleet_view.row_of("kitchen", taken, {})]
    picture = drawn(rows, 100)
    assert "7.2 W sim" in picture
    assert "54 °C sim" in picture, "the board's temperature, not that of its disk"
    assert "lab: 1 device, 7.2 W sim" in picture
    assert fleet_view.as_plain(rows[0])["simulated"] is True
    taken.simulated = False
    assert "sim" not in drawn([fleet_view.row_of("kitchen", taken, {})], 100)


def test_supply_and_swap_in_have_columns_where_they_exist() -> None:
    plain_row = fleet_view.row_of("hall", sample(), {})
    assert "SUPPLY" not in drawn([plain_row], 120)
    assert "SWAP-IN" not in drawn([plain_row], 120)
    taken = sample()
    taken.supply.on_mains = False
    taken.supply.battery_percent = 40.0
    taken.memory.swap_in_bytes_per_s = 3_200_000.0
    rows = [plain_row, fleet_view.row_of("robot", taken, {})]
    hall, robot = drawn(rows, 120).splitlines()[-2:]
    assert "SUPPLY" in drawn(rows, 120)
    assert "battery 40 %" in robot
    assert "3.20 MB/s" in robot
    assert "battery" not in hall
    assert tuple(fleet_screen.table(rows).columns) == (
        "DEVICE", "STATE", "MEMORY", "SWAP-IN", "POWER", "SUPPLY", "TEMP", "TOK/S", "JOB", "STEP",
        "LOSS", "TO GO",
    )  # fmt: skip
    shown = fleet_view.as_plain(rows[1])
    assert (shown["on_mains"], shown["battery_percent"]) == (False, 40.0)
    assert fleet_view.as_plain(plain_row)["swap_in_bytes_per_s"] is None
    taken.memory.swap_in_bytes_per_s = 0.0
    assert "SWAP-IN" not in drawn([fleet_view.row_of("robot", taken, {})], 120)
    taken.simulated = True
    assert "battery 40 % sim" in drawn([fleet_view.row_of("robot", taken, {})], 120)
