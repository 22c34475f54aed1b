from pathlib import Path

import pytest

from jetson import rapl
from jetson.power import SUM_OF_RAILS, PowerReading, Rail, read_power
from tests.jetson import trees
from tests.jetson.trees import write


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "nano",
            PowerReading(
                (Rail("POM_5V_IN", 2875), Rail("POM_5V_GPU", 40), Rail("POM_5V_CPU", 510)),
                2875,
                "POM_5V_IN",
            ),
        ),
        (
            "orin nano",
            PowerReading(
                (Rail("VDD_IN", 2957), Rail("VDD_CPU_GPU_CV", 486), Rail("VDD_SOC", 1013)),
                2957,
                "VDD_IN",
            ),
        ),
        (
            "agx orin",
            PowerReading(
                (
                    Rail("VDD_GPU_SOC", 5130),
                    Rail("VDD_CPU_CV", 798),
                    Rail("VIN_SYS_5V0", 4500),
                    Rail("VDDQ_VDD2_1V8AO", 570),
                ),
                10998,
                SUM_OF_RAILS,
            ),
        ),
        (
            "thor",
            PowerReading(
                (
                    Rail("VDD_GPU", 0),
                    Rail("VDD_CPU_SOC_MSS", 3990),
                    Rail("VIN_SYS_5V0", 4000),
                    Rail("VIN", 31250),
                ),
                31250,
                "VIN",
            ),
        ),
        (
            "tx2",
            PowerReading(
                (
                    Rail("VDD_SYS_GPU", 152),
                    Rail("VDD_SYS_SOC", 475),
                    Rail("VDD_4V0_WIFI", 28),
                    Rail("VDD_IN", 2470),
                    Rail("VDD_SYS_CPU", 228),
                    Rail("VDD_SYS_DDR", 380),
                ),
                2470,
                "VDD_IN",
            ),
        ),
        (
            "agx-xavier-32gb",
            PowerReading(
                (
                    Rail("GPU", 190),
                    Rail("CPU", 380),
                    Rail("SOC", 1140),
                    Rail("CV", 0),
                    Rail("VDDRQ", 380),
                    Rail("SYS5V", 1330),
                ),
                3420,
                SUM_OF_RAILS,
            ),
        ),
        ("nano-2gb", None),
        ("workstation", None),
        ("raspberry pi", None),
        ("container", None),
    ],
)
def test_power_and_its_total(tmp_path: Path, name: str, expected: PowerReading | None) -> None:
    assert read_power(write(trees.BOARDS[name], tmp_path)) == expected


def test_input_rail_that_fails_leaves_no_total(tmp_path: Path) -> None:
    """Not the sum of the others: the method must not change from sample to sample."""
    write(trees.ORIN_NANO, tmp_path)
    next(tmp_path.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/*/curr1_input")).unlink()
    reading = read_power(tmp_path)
    assert reading is not None
    assert reading.rails[0] == Rail("VDD_IN", None)
    assert (reading.total_mw, reading.total_source) == (None, "VDD_IN")


def test_sum_that_lacks_a_rail_is_no_total(tmp_path: Path) -> None:
    write(trees.AGX_ORIN, tmp_path)
    next(tmp_path.glob("sys/bus/i2c/drivers/ina3221/1-0041/hwmon/*/in2_input")).write_text("")
    reading = read_power(tmp_path)
    assert reading is not None
    assert (reading.total_mw, reading.total_source) == (None, SUM_OF_RAILS)


def test_rails_are_known_by_name_not_by_channel(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/2-0042/iio:device17"
    tree = {
        f"{folder}/rail_name_0": b"POM_5V_CPU\n",
        f"{folder}/in_power0_input": b"100\n",
        f"{folder}/rail_name_2": b"POM_5V_IN\n",
        f"{folder}/in_power2_input": b"900\n",
    }
    reading = read_power(write(tree, tmp_path))
    assert reading is not None
    assert (reading.total_mw, reading.total_source) == (900, "POM_5V_IN")


def test_power_from_voltage_and_current_where_the_driver_gives_no_power(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    for path in tmp_path.glob("sys/bus/i2c/drivers/ina3221x/*/*/in_power0_input"):
        path.unlink()
    reading = read_power(tmp_path)
    assert reading is not None
    assert reading.total_mw == 2875


def test_offset_of_zero_is_not_negative_power(tmp_path: Path) -> None:
    write(trees.NANO, tmp_path)
    next(tmp_path.glob("sys/bus/i2c/drivers/ina3221x/*/*/in_power0_input")).write_text("-4\n")
    reading = read_power(tmp_path)
    assert reading is not None
    assert reading.total_mw == 0


def counter(name: str, energy_uj: int) -> rapl.EnergyCounter:
    return rapl.EnergyCounter(name, energy_uj, 1_000_000)


def test_rapl_counts_the_packages_and_no_part_of_them(tmp_path: Path) -> None:
    counters = rapl.read_counters(write(trees.WORKSTATION, tmp_path))
    assert counters == (rapl.EnergyCounter("package-0", 1_000_000, 262_143_328_850),)


def test_rapl_difference_over_a_wrap_of_the_counter() -> None:
    spent = rapl.spent((counter("package-0", 999_000),), (counter("package-0", 500),))
    assert spent is not None
    assert (spent.total_uj, spent.total_source) == (1_500, rapl.PACKAGE)


def test_rapl_platform_is_the_total_where_there_is_one() -> None:
    before = (counter("package-0", 0), counter("psys", 0))
    after = (counter("package-0", 300), counter("psys", 700))
    spent = rapl.spent(before, after)
    assert spent is not None
    assert spent.domains == (("package-0", 300), ("psys", 700))
    assert (spent.total_uj, spent.total_source) == (700, rapl.PLATFORM)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), ()),
        ((), (counter("package-0", 5),)),
        ((counter("package-0", 5),), ()),
        ((counter("dram", 5),), (counter("dram", 6),)),
    ],
)
def test_rapl_that_comes_or_goes_is_absent(
    before: tuple[rapl.EnergyCounter, ...], after: tuple[rapl.EnergyCounter, ...]
) -> None:
    assert rapl.spent(before, after) is None


@pytest.mark.parametrize(
    ("name", "total_mw", "source"),
    [
        ("nano-4gb", 1250, "POM_5V_IN"),
        ("nano-4gb-emmc", 1250, "POM_5V_IN"),
        ("tx2-nx", 2470, "VDD_IN"),
        ("xavier-nx-8gb", 3433, "VDD_IN"),
        ("xavier-nx-16gb", 3433, "VDD_IN"),
        ("agx-xavier-64gb", 3420, SUM_OF_RAILS),
        ("orin-nano-4gb", 3753, "VDD_IN"),
        ("orin-nano-8gb-devkit", 3753, "VDD_IN"),
        ("orin-nx-16gb", 3753, "VDD_IN"),
        ("agx-orin-32gb", 6648, SUM_OF_RAILS),
        ("thor-t5000", 27000, "VIN"),
        ("thor-t4000", 27000, "VIN"),
    ],
)
def test_total_at_rest(tmp_path: Path, name: str, total_mw: int, source: str) -> None:
    reading = read_power(write(trees.BOARDS[name], tmp_path))
    assert reading is not None
    assert (reading.total_mw, reading.total_source) == (total_mw, source)
