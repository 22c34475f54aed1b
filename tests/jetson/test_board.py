from pathlib import Path

import pytest

from jetson.board import CUDA_ARCHITECTURES, JETPACKS, MODULES, Board, identify
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
        carrier="p3449-0000",
        memory_variant_gb=4,
        glibc="2.27",
        container=None,
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
        carrier="p3768-0000",
        memory_variant_gb=8,
        glibc=None,
        container=None,
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
        carrier="p3737-0000",
        memory_variant_gb=64,
        glibc=None,
        container=None,
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
        carrier="p3509-0000",
        memory_variant_gb=8,
        glibc=None,
        container=None,
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
        carrier="p4071-0000",
        memory_variant_gb=128,
        glibc=None,
        container=None,
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
        carrier=None,
        memory_variant_gb=None,
        glibc="2.36",
        container=None,
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
        carrier=None,
        memory_variant_gb=None,
        glibc=None,
        container=None,
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
        carrier=None,
        memory_variant_gb=None,
        glibc=None,
        container=None,
    ),
}


# Module, carrier, SoC, variant in GB, L4T, JetPack, CUDA architecture, glibc, power mode, cores.
AT_REST = {
    "nano-4gb": "p3448-0000 p3449-0000 tegra210 4 32.7.6 4.6.6 53 2.27 MAXN(0) 4",
    "nano-4gb-emmc": "p3448-0002 p3449-0000 tegra210 4 32.7.6 4.6.6 53 2.27 MAXN(0) 4",
    "nano-2gb": "p3448-0003 p3542-0000 tegra210 2 32.7.6 4.6.6 53 2.27 MAXN(0) 4",
    "tx2": "p3310-1000 p2597-0000 tegra186 8 32.7.6 4.6.6 62 2.27 MAXP_CORE_ARM(3) 6",
    "tx2-nx": "p3636-0001 p3509-0000 tegra186 4 32.7.6 4.6.6 62 2.27 MAXP_CORE_ARM(3) 6",
    "xavier-nx-8gb-sd": "p3668-0000 p3509-0000 tegra194 8 35.6.1 5.1.5 72 2.31 15W_6CORE(2) 6",
    "xavier-nx-8gb": "p3668-0001 p3509-0000 tegra194 8 35.6.1 5.1.5 72 2.31 15W_6CORE(2) 6",
    "xavier-nx-16gb": "p3668-0003 p3509-0000 tegra194 16 35.6.1 5.1.5 72 2.31 15W_6CORE(2) 6",
    "agx-xavier-16gb": "p2888-0001 p2822-0000 tegra194 16 35.6.1 5.1.5 72 2.31 MODE_30W_ALL(3) 8",
    "agx-xavier-32gb": "p2888-0004 p2822-0000 tegra194 32 35.6.1 5.1.5 72 2.31 MODE_30W_ALL(3) 8",
    "agx-xavier-64gb": "p2888-0005 p2822-0000 tegra194 64 35.6.1 5.1.5 72 2.31 MODE_30W_ALL(3) 8",
    "agx-xavier-industrial": "p2888-0008 p2822-0000 tegra194 32 35.6.1 5.1.5 72 2.31"
    " MODE_30W_ALL(3) 8",
    "orin-nano-4gb": "p3767-0004 p3768-0000 tegra234 4 36.5.0 6.2.2 87 2.35 10W(0) 6",
    "orin-nano-8gb": "p3767-0003 p3768-0000 tegra234 8 36.5.0 6.2.2 87 2.35 15W(0) 6",
    "orin-nano-8gb-devkit": "p3767-0005 p3768-0000 tegra234 8 36.5.0 6.2.2 87 2.35 25W(1) 6",
    "orin-nx-8gb": "p3767-0001 p3768-0000 tegra234 8 36.5.0 6.2.2 87 2.35 25W(3) 6",
    "orin-nx-16gb": "p3767-0000 p3768-0000 tegra234 16 36.5.0 6.2.2 87 2.35 25W(3) 8",
    "agx-orin-devkit": "p3701-0000 p3737-0000 tegra234 32 36.5.0 6.2.2 87 2.35 MODE_30W(2) 12",
    "agx-orin-32gb": "p3701-0004 p3737-0000 tegra234 32 36.5.0 6.2.2 87 2.35 MODE_30W(2) 8",
    "agx-orin-64gb": "p3701-0005 p3737-0000 tegra234 64 36.5.0 6.2.2 87 2.35 MODE_30W(2) 12",
    "agx-orin-industrial": "p3701-0008 p3737-0000 tegra234 64 36.5.0 6.2.2 87 2.35 MODE_30W(2) 12",
    "thor-t5000": "p3834-0008 p4071-0000 tegra264 128 38.4.0 7.1 110 2.39 120W(1) 14",
    "thor-t4000": "p3834-0000 p4071-0000 tegra264 64 38.4.0 7.1 110 2.39 120W(1) 12",
}


@pytest.mark.parametrize("name", trees.AT_REST)
def test_every_board_at_rest(tmp_path: Path, name: str) -> None:
    board = identify(write(trees.BOARDS[name], tmp_path), "aarch64")
    told = (
        board.module,
        board.carrier,
        board.soc,
        board.memory_variant_gb,
        board.l4t,
        board.jetpack,
        board.cuda_architecture,
        board.glibc,
        (board.power_mode or "").replace(" ", ""),
        board.cpu_count,
    )
    assert " ".join(map(str, told)) == AT_REST[name]
    assert board.is_jetson
    assert board.module in MODULES
    assert board.model == f"NVIDIA {MODULES[board.module]}"


@pytest.mark.parametrize("name", EXPECTED)
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


def test_container_that_hides_the_device_tree_still_knows_its_chip(tmp_path: Path) -> None:
    board = identify(
        write({"sys/devices/soc0/family": b"Tegra\n", "sys/devices/soc0/soc_id": b"35\n"}, tmp_path)
    )
    assert (board.soc, board.is_jetson, board.cuda_architecture) == ("tegra234", True, "87")
    assert board.module is None


@pytest.mark.parametrize(
    ("files", "container"),
    [
        ({".dockerenv": b""}, "docker"),
        ({"run/.containerenv": b""}, "podman"),
        ({"run/systemd/container": b"systemd-nspawn\n"}, "systemd-nspawn"),
        ({}, None),
    ],
)
def test_container_is_named(tmp_path: Path, files: Tree, container: str | None) -> None:
    assert identify(write(files, tmp_path)).container == container


@pytest.mark.parametrize(
    ("compatible", "carrier"),
    [
        (b"seeed,j401+p3767-0003\0nvidia,tegra234\0", "seeed,j401"),
        (b"nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0", "p3768-0000"),
        (b"forecr,dsboard-ornx\0nvidia,p3767-0000\0nvidia,tegra234\0", "forecr dsboard-ornx"),
        (b"nvidia,p3767-0000\0nvidia,tegra234\0", None),
    ],
)
def test_carrier_of_whatever_maker(tmp_path: Path, compatible: bytes, carrier: str | None) -> None:
    board = identify(write({"proc/device-tree/compatible": compatible}, tmp_path))
    assert board.carrier == carrier
    assert (board.module or "").startswith("p3767")


def test_module_from_the_flashed_image_where_the_device_tree_names_none(tmp_path: Path) -> None:
    tree = {
        "proc/device-tree/compatible": b"maker,carrier\0nvidia,tegra234\0",
        "etc/nv_boot_control.conf": b"TNSPEC 3767-300-0005-N.2-1-1-jetson-orin-nano-devkit-\n"
        b"COMPATIBLE_SPEC 3767--0005--1--jetson-orin-nano-devkit-\n",
    }
    assert identify(write(tree, tmp_path)).module == "p3767-0005"


@pytest.mark.parametrize(
    ("mebibytes", "gigabytes"),
    [(1980, 2), (3964, 4), (7337, 8), (7772, 8), (15388, 16), (30536, 32), (62840, 64),
     (125772, 128)],
)  # fmt: skip
def test_memory_variant_after_the_carve_out(tmp_path: Path, mebibytes: int, gigabytes: int) -> None:
    write({**trees.ORIN_NANO, **trees.memory(mebibytes * 1024, 1_000_000, 0)}, tmp_path)
    assert identify(tmp_path).memory_variant_gb == gigabytes


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
    assert board.glibc
