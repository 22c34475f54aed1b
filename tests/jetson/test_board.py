from pathlib import Path

import pytest

from jetson.board import CUDA_ARCHITECTURES, JETPACKS, Board, identify
from jetson.clocks import read_power_mode
from tests.jetson import trees
from tests.jetson.trees import Tree, write

EXPECTED = {
    "nano": Board(
        model="NVIDIA Jetson Nano 4 GB",
        module="p3448-0000",
        soc="tegra210",
        l4t="32.7.1",
        jetpack="4.6.1",
        kernel="4.9.253-tegra",
        architecture="aarch64",
        cpu_count=4,
        memory_total_bytes=4_059_256 * 1024,
        power_mode="5W (1)",
        is_jetson=True,
        cuda_architecture="53",
    ),
    "orin nano": Board(
        model="NVIDIA Jetson Orin Nano 8 GB (developer kit)",
        module="p3767-0005",
        soc="tegra234",
        l4t="36.4.3",
        jetpack="6.2",
        kernel="5.15.148-tegra",
        architecture="aarch64",
        cpu_count=6,
        memory_total_bytes=7_802_880 * 1024,
        power_mode="MAXN_SUPER (2)",
        is_jetson=True,
        cuda_architecture="87",
    ),
    "agx orin": Board(
        model="NVIDIA Jetson AGX Orin 64 GB",
        module="p3701-0005",
        soc="tegra234",
        l4t="35.4.1",
        jetpack="5.1.2",
        kernel="5.10.120-tegra",
        architecture="aarch64",
        cpu_count=12,
        memory_total_bytes=64_348_160 * 1024,
        power_mode="MAXN (0)",
        is_jetson=True,
        cuda_architecture="87",
    ),
    "xavier nx": Board(
        model="NVIDIA Jetson Xavier NX 8 GB",
        module="p3668-0001",
        soc="tegra194",
        l4t="35.4.1",
        jetpack="5.1.2",
        kernel="5.10.104-tegra",
        architecture="aarch64",
        cpu_count=3,
        memory_total_bytes=7_958_528 * 1024,
        power_mode=None,
        is_jetson=True,
        cuda_architecture="72",
    ),
    "thor": Board(
        model="NVIDIA Jetson T5000",
        module="p3834-0008",
        soc="tegra264",
        l4t="38.2.0",
        jetpack="7.0",
        kernel="6.8.12-tegra",
        architecture="aarch64",
        cpu_count=14,
        memory_total_bytes=128_790_528 * 1024,
        power_mode=None,
        is_jetson=True,
        cuda_architecture="110",
    ),
    "workstation": Board(
        model="Intel(R) Core(TM) i7-9700 CPU @ 3.00GHz",
        module=None,
        soc=None,
        l4t=None,
        jetpack=None,
        kernel="6.1.0-21-amd64",
        architecture="aarch64",
        cpu_count=8,
        memory_total_bytes=32_000_000 * 1024,
        power_mode=None,
        is_jetson=False,
        cuda_architecture=None,
    ),
    "raspberry pi": Board(
        model="Raspberry Pi 5 Model B Rev 1.0",
        module=None,
        soc="bcm2712",
        l4t=None,
        jetpack=None,
        kernel="6.6.31+rpt-rpi-2712",
        architecture="aarch64",
        cpu_count=4,
        memory_total_bytes=8_256_000 * 1024,
        power_mode=None,
        is_jetson=False,
        cuda_architecture=None,
    ),
    "container": Board(
        model=None,
        module=None,
        soc=None,
        l4t=None,
        jetpack=None,
        kernel=None,
        architecture="aarch64",
        cpu_count=None,
        memory_total_bytes=None,
        power_mode=None,
        is_jetson=False,
        cuda_architecture=None,
    ),
}


@pytest.mark.parametrize("name", trees.BOARDS)
def test_board_is_identified(tmp_path: Path, name: str) -> None:
    assert identify(write(trees.BOARDS[name], tmp_path), "aarch64") == EXPECTED[name]


@pytest.mark.parametrize(
    ("compatible", "module"),
    [
        (b"nvidia,p3768-0000+p3767-0003-super\0nvidia,tegra234\0", "p3767-0003"),
        (b"nvidia,p3449-0000+p3668-0000-qspi-sd\0nvidia,tegra194\0", "p3668-0000"),
        # A module that is newer than the table, and one without a part number.
        (b"nvidia,p9999-0000+p8888-0001\0nvidia,tegra234\0", "p8888-0001"),
        (b"maker,carrier\0nvidia,tegra234\0", None),
    ],
)
def test_module_is_found_by_pattern(tmp_path: Path, compatible: bytes, module: str | None) -> None:
    write({"proc/device-tree/compatible": compatible}, tmp_path)
    board = identify(tmp_path)
    assert board.module == module
    assert board.is_jetson
    assert board.cuda_architecture is not None


@pytest.mark.parametrize(
    ("line", "l4t", "jetpack"),
    [
        (b"# R36 (release), REVISION: 4.7, GCID: 1\n# KERNEL_VARIANT: oot\n", "36.4.7", "6.2.1"),
        (b"# R35 (release), REVISION: 1.0, GCID: 1\n", "35.1.0", "5.0.2"),
        (b"# R36 (release), REVISION: 99.9, GCID: 1\n", "36.99.9", None),
        (b"R36\n", None, None),
    ],
)
def test_release_line(tmp_path: Path, line: bytes, l4t: str | None, jetpack: str | None) -> None:
    write({**trees.ORIN_NANO, "etc/nv_tegra_release": line}, tmp_path)
    board = identify(tmp_path)
    assert (board.l4t, board.jetpack) == (l4t, jetpack)


def test_container_on_a_jetson_knows_the_board_but_not_the_release(tmp_path: Path) -> None:
    inside: Tree = {
        name: content for name, content in trees.ORIN_NANO.items() if not name.startswith("etc/")
    }
    board = identify(write(inside, tmp_path))
    assert board.module == "p3767-0005"
    assert (board.l4t, board.jetpack) == (None, None)
    assert board.power_mode == "mode 2"


def test_power_mode_without_a_name(tmp_path: Path) -> None:
    mode = read_power_mode(write({"var/lib/nvpmodel/status": b"pmode:0003\n"}, tmp_path))
    assert mode is not None
    assert (mode.id, mode.name) == (3, None)


def test_tables_are_of_one_kind() -> None:
    assert all(soc.startswith("tegra") for soc in CUDA_ARCHITECTURES)
    assert all(release.count(".") == 2 for release in JETPACKS)


def test_this_machine_is_identified() -> None:
    board = identify()
    assert board.architecture
    assert board.cpu_count
    assert board.memory_total_bytes
