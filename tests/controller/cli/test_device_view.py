"""How a device is shown, from what it says of itself."""

from controller import DeviceRecord, DeviceStatus
from controller.cli import device_view
from protos.nanofleet.v1.device_pb2 import Board, Device, ThermalZone, TripPoint


def card(board: Board) -> dict[str, str]:
    return card_of(Device(board=board))


def card_of(device: Device) -> dict[str, str]:
    record = DeviceRecord("kitchen", "127.0.0.1:7401", {}, 0, 0)
    status = DeviceStatus(record, reachable=True, device=device)
    return {label: str(value) for label, value in device_view.card(status, 1).fields}


def orin() -> Board:
    trips = [TripPoint(kind="passive", celsius=99), TripPoint(kind="critical", celsius=105)]
    return Board(
        model="NVIDIA Jetson Orin Nano 8 GB",
        module="p3767-0003",
        carrier="p3768-0000",
        memory_variant_gb=8,
        soc="tegra234",
        cuda_architecture="87",
        l4t="36.4.3",
        jetpack="6.2",
        kernel="5.15.148-tegra",
        architecture="aarch64",
        glibc="2.35",
        container="docker",
        power_mode="15W (0)",
        clocks_pinned=True,
        zones=[ThermalZone(name="cpu-thermal", trips=trips), ThermalZone(name="tj-thermal")],
    )


def test_the_board_of_a_device() -> None:
    shown = card(orin())
    assert shown["board"] == "NVIDIA Jetson Orin Nano 8 GB"
    assert shown["module"] == "p3767-0003 on p3768-0000, 8 GB, tegra234, sm_87"
    assert shown["system"] == ("JetPack 6.2, L4T 36.4.3, 5.15.148-tegra, aarch64, glibc 2.35")
    assert shown["container"] == "docker"
    assert shown["power mode"] == "15W (0), clocks pinned (jetson_clocks)"
    assert shown["heat"] == "slows down at 99 °C, switches off at 105 °C"
    assert not shown.get("simulated")


def test_a_simulated_board_is_called_one_wherever_it_is_named() -> None:
    board = orin()
    board.simulated = "orin-nano-8gb"
    shown = card(board)
    assert shown["board"].endswith("(simulated)")
    assert "not measured" in shown["simulated"]
    record = DeviceRecord("kitchen", "127.0.0.1:7401", {}, 0, 0)
    status = DeviceStatus(record, reachable=True, device=Device(board=board))
    for table in (device_view.table([status], 1), device_view.checked_table([status], 1)):
        assert any("(simulated)" in str(cell) for cell in table.rows[0])


def test_what_feeds_a_board_and_what_comes_back_from_swap_are_told_where_they_are_known() -> None:
    device = Device(board=orin())
    shown = card_of(device)
    assert (shown["supply"], shown["swap-in"]) == ("", "")
    device.swap_in_bytes_per_s = 1_500_000.0
    device.supply.battery_percent = 87.0
    assert card_of(device)["swap-in"] == "1.50 MB/s"
    for on_mains, said in ((None, "battery 87 %"), (True, "mains, battery 87 %"),
                           (False, "battery 87 %")):  # fmt: skip
        if on_mains is not None:
            device.supply.on_mains = on_mains
        assert card_of(device)["supply"] == said
    device.supply.ClearField("battery_percent")
    assert card_of(device)["supply"] == "battery"
    device.supply.on_mains = True
    assert card_of(device)["supply"] == "mains"
