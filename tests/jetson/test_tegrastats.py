"""tegrastats, line by line: whole lines are read value by value, damaged ones never lie."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson.gpu import GpuReading
from jetson.memory import FreeBlock
from jetson.power import SUM_OF_RAILS, PowerReading, Rail
from jetson.tegrastats import Clocked, TegrastatsLine, Used, parse_tegrastats
from jetson.thermal import Temperature
from tests.jetson.lines import LINES

MB, KB = 1 << 20, 1 << 10


@pytest.mark.parametrize("name", LINES)
def test_nothing_of_a_whole_line_is_unread(name: str) -> None:
    assert parse_tegrastats(LINES[name] + "\n").unread == []


def test_r32_as_root_value_by_value() -> None:
    assert parse_tegrastats(LINES["r32 nano, root"]) == TegrastatsLine(
        ram=Used(534 * MB, 3964 * MB),
        largest_free_block=FreeBlock(4 * MB, 98),
        swap=Used(5 * MB, 1982 * MB),
        swap_cached_bytes=MB,
        iram=Used(0, 252 * KB),
        cores=[Clocked(16, 204), Clocked(9, 204), Clocked(0, 204), Clocked(0, 204)],
        emc=Clocked(0, 204),
        gpu=GpuReading(0.0, 76),
        engines={"APE": Clocked(None, 25)},
        # Neither the constant of the PMIC nor the fan's weighted mean.
        temperatures=[
            Temperature("PLL", 34.0),
            Temperature("CPU", 36.5),
            Temperature("GPU", 36.0),
            Temperature("AO", 39.5),
        ],
        rails=[Rail("POM_5V_IN", 1022), Rail("POM_5V_GPU", 0), Rail("POM_5V_CPU", 204)],
    )


def test_r35_value_by_value() -> None:
    line = parse_tegrastats(LINES["r35 orin nano"])
    assert line.stamp == datetime(2024, 1, 24, 9, 17, 9)
    assert line.largest_free_block == FreeBlock(MB, 7)
    assert line.cores[3:] == [Clocked(18, 729), None, None]
    assert line.gpu == GpuReading(0.0, 305)
    assert line.engines == {
        "GR3D2": Clocked(0, 0),
        "VIC": Clocked(None, 115),
        "APE": Clocked(None, 174),
    }
    assert Temperature("tj", 46.968) in line.temperatures
    assert line.power == PowerReading(
        (Rail("VDD_IN", 4915), Rail("VDD_CPU_GPU_CV", 449), Rail("VDD_SOC", 1431)), 4915, "VDD_IN"
    )
    assert line.heat is not None
    assert (line.heat.zone, line.heat.celsius) == ("tj", 46.968)


def test_zones_and_rails_of_one_name_are_told_apart_by_shape() -> None:
    line = parse_tegrastats(LINES["r32 agx xavier"])
    assert line.cores[0] == Clocked(3, 1190)
    assert Temperature("CPU", 38.0) in line.temperatures
    assert Rail("CPU", 311) in line.rails
    assert line.power == PowerReading(tuple(line.rails), 2953, SUM_OF_RAILS)
    assert line.mts_percent == (0, 0)


def test_offline_zones_unconnected_rails_and_no_free_block() -> None:
    line = parse_tegrastats(LINES["r35 agx orin, no time"])
    assert line.stamp is None
    assert line.largest_free_block is None
    assert line.offline_zones == ["CV0", "CV1"]
    assert "NC" not in {rail.name for rail in line.rails}
    assert line.engines["NVDLA0"] is None
    assert line.engines["PVA0"] is None
    assert line.power is not None
    assert (line.power.total_mw, line.power.total_source) == (8235, SUM_OF_RAILS)


def test_r36_without_root_has_no_clocks_and_no_emc() -> None:
    line = parse_tegrastats(LINES["r36 orin nano, not root"])
    assert line.emc is None
    assert line.gpu == GpuReading(0.0, None)
    assert line.engines == {}


def test_clusters_of_the_gpu_and_two_ways_of_naming_an_engine() -> None:
    line = parse_tegrastats(LINES["r36 orin nx, two clusters"])
    assert line.gpu == GpuReading(41.0, 612)
    assert line.engines == {"NVENC": Clocked(None, 115), "NVDEC": None, "VIC": Clocked(0, 115)}
    assert line.swap is None
    # A part above the whole: the rails are not read at one moment.
    assert line.power is not None
    assert line.power.total_mw == 7550


def test_thor_tells_a_clock_and_no_load() -> None:
    line = parse_tegrastats(LINES["r38 thor"])
    assert line.gpu == GpuReading(None, 314)
    assert line.engines["NVENC0"] == Clocked(None, 314)
    assert {one.zone for one in line.temperatures} == {"cpu", "tj", "soc012", "soc345"}
    assert line.power is not None
    assert (line.power.total_mw, line.power.total_source) == (31250, "VIN")


def test_r39_has_three_numbers_a_rail_and_two_a_zone() -> None:
    line = parse_tegrastats(LINES["r39 agx orin"])
    assert line.largest_free_block == FreeBlock(512 * KB, 1)
    assert line.temperatures == [Temperature("cpu", 52.968), Temperature("tj", 53.5)]
    assert line.offline_zones == ["cv0"]
    assert line.rails[0] == Rail("VDD_GPU_SOC", 5139)


@pytest.mark.parametrize(
    ("line", "unread"),
    [
        ("", []),
        ("tegrastats: command not found", ["tegrastats:", "command", "not", "found"]),
        ("99-99-2024 09:17:09 RAM 1/2MB", ["99-99-2024 09:17:09"]),
        ("RAM 534/3964MB (lfb 98x4M", ["(lfb", "98x4M"]),
        ("RAM 534/3964MB VDD_IN 4915mW/49", ["VDD_IN", "4915mW/49"]),
        # These would look whole.
        ("RAM 534/3964MB VIC_FREQ 11", ["VIC_FREQ 11"]),
        ("RAM 534/3964MB GR3D_FREQ 0%@13", ["GR3D_FREQ 0%@13"]),
        ("AM 534/39", ["AM 534/39"]),
        ("M_5V_IN 1022/1022 POM_5V_GPU 0/0", ["M_5V_IN 1022/1022"]),
        ("PU@36.5C GPU@36C", ["PU@36.5C"]),
    ],
)
def test_what_cannot_be_read_is_named(line: str, unread: list[str]) -> None:
    assert parse_tegrastats(line).unread == unread


def test_sum_of_rails_of_a_damaged_line_is_no_total() -> None:
    whole = LINES["r32 agx xavier"]
    power = parse_tegrastats(whole.replace("VDDRQ 155/155", "VDDRQ 155/1x5")).power
    assert power is not None
    assert (power.total_mw, power.total_source) == (None, SUM_OF_RAILS)
    # An input rail is a total by itself.
    power = parse_tegrastats(LINES["r36 orin nano, root"].replace("APE 200", "AP? 200")).power
    assert power is not None
    assert power.total_mw == 2957


def values(line: TegrastatsLine) -> Iterator[tuple[str, object]]:
    """Everything that a line says, flat; zones and rails by their names."""
    for name, value in dataclasses.asdict(line).items():
        if isinstance(value, list) and name in ("temperatures", "rails"):
            yield from ((name, tuple(entry.values())) for entry in value)
        elif isinstance(value, dict) and name == "engines":
            yield from ((f"{name} {key}", entry) for key, entry in value.items())
        elif value and name != "unread":
            yield name, value


def known(whole: list[tuple[str, object]], said: tuple[str, object]) -> bool:
    """Whether the whole line says it, too. A token may have lost its second half: a used memory
    without its cache, a load without its clock."""
    name, value = said
    return any(other == name and is_part(value, entry) for other, entry in whole)


def is_part(value: object, whole: object) -> bool:
    if isinstance(value, dict) and isinstance(whole, dict):
        return all(part is None or part == whole[key] for key, part in value.items())
    if isinstance(value, list) and isinstance(whole, list):
        return all(part in whole for part in value)
    return value == whole


@given(st.sampled_from(sorted(LINES)), st.data())
def test_piece_of_a_line_says_nothing_that_the_line_does_not(
    name: str, data: st.DataObject
) -> None:
    line = LINES[name]
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, len(line)))
    piece, whole = parse_tegrastats(line[start:end]), list(values(parse_tegrastats(line)))
    wrong = [said for said in values(piece) if not known(whole, said)]
    assert not wrong, line[start:end]


def test_every_cut_of_every_line() -> None:
    """As above, for all heads and all tails."""
    for line in LINES.values():
        whole = list(values(parse_tegrastats(line)))
        for place in range(len(line)):
            for piece in (line[:place], line[place:]):
                wrong = [said for said in values(parse_tegrastats(piece)) if not known(whole, said)]
                assert not wrong, piece


@given(
    st.sampled_from(sorted(LINES)),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30), st.text(max_size=5)), max_size=4),
)
def test_no_mutilation_raises(name: str, cuts: list[tuple[int, int, str]]) -> None:
    line = LINES[name]
    for place, length, text in cuts:
        line = line[:place] + text + line[place + length :]
    parsed = parse_tegrastats(line)
    assert parsed.power is None or parsed.power.rails
    words = set(line.split())
    assert all(set(piece.split()) <= words for piece in parsed.unread)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    assert isinstance(parse_tegrastats(text), TegrastatsLine)
