"""Every board has a profile, and a profile that is not understood is refused by name."""

from pathlib import Path

import pytest

from jetson import profiles
from jetson.board import CUDA_ARCHITECTURES, MODULES, identify
from jetson.profiles import load, parsed, profile_of
from jetson.simulation.boards import BOARDS as AT_REST
from jetson.simulation.boards import tree_of
from jetson.simulation.tree import write

# The boards that we claim to know: one module, at least, of each.
BOARDS = {
    "Nano 4 GB": "p3448-0000",
    "Nano eMMC": "p3448-0002",
    "Nano 2 GB": "p3448-0003",
    "TX2 NX": "p3636-0001",
    "TX2": "p3310-1000",
    "Xavier NX 8 GB": "p3668-0001",
    "Xavier NX 16 GB": "p3668-0003",
    "AGX Xavier": "p2888-0004",
    "Orin Nano 4 GB": "p3767-0004",
    "Orin Nano 8 GB": "p3767-0005",
    "Orin NX 8 GB": "p3767-0001",
    "Orin NX 16 GB": "p3767-0000",
    "AGX Orin": "p3701-0000",
    "AGX Orin 32 GB": "p3701-0004",
    "AGX Orin 64 GB": "p3701-0005",
    "T4000": "p3834-0000",
    "T5000": "p3834-0008",
}
RIGHT: dict[str, object] = {
    "name": "Board",
    "modules": ["p0000-0001"],
    "engine": "llama",
    "training_threads": 4,
    "inference_threads": 3,
    "data_type": "float32",
    "context_length": 2048,
    "memory_budget_mib": 3000,
    "fits_1b": "both",
    "slowest_power_w": 10,
    "arch": "armv8-a+crc",
}


@pytest.mark.parametrize("module", [*BOARDS.values(), *MODULES])
def test_every_board_has_a_profile(module: str) -> None:
    found = profile_of(module)
    assert found is not None
    assert module in found.modules


@pytest.mark.parametrize("name", AT_REST)
def test_a_profile_asks_for_no_more_than_there_is(name: str, tmp_path: Path) -> None:
    board = AT_REST[name]
    found = profile_of(identify(write(tree_of(board), tmp_path), "aarch64").module)
    assert found is not None
    assert found.memory_budget_mib < board.available_kb // 1024
    assert found.inference_threads < found.training_threads <= board.cores


def test_no_profile_is_for_a_module_that_is_not_known() -> None:
    assert {module for profile in load() for module in profile.modules} == set(MODULES)
    assert len(CUDA_ARCHITECTURES) == len({profile.arch for profile in load()}) + 1  # 210 as 186


def test_no_profile_for_other_machines() -> None:
    assert profile_of(None) is None
    assert profile_of("p9999-0000") is None


def test_what_a_build_for_a_board_needs() -> None:
    nano, orin = profile_of("p3448-0000"), profile_of("p3767-0005")
    assert nano is not None
    assert orin is not None
    assert nano.cpu_features == {"crc32"}
    assert nano.environment == {"OPENBLAS_CORETYPE": "ARMV8"}
    assert orin.cpu_features == {"asimddp", "asimdhp"}
    assert orin.cmake_args == (
        "-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 -DLLAVA_BUILD=OFF"
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("engine", "tensorrt", "Board: engine must be one of llama, onnxruntime, transformers"),
        ("data_type", "int8", "data_type must be one of float32, bfloat16"),
        ("fits_1b", True, "fits_1b must be one of both, serving"),
        ("training_threads", 0, "training_threads must be a number above 0, and is 0"),
        ("context_length", True, "context_length must be a number above 0"),
        ("memory_budget_mib", "3 GB", "memory_budget_mib must be a number above 0"),
        ("modules", [], "modules must be part numbers"),
        ("modules", ["p3448"], "modules must be part numbers"),
        ("modules", "p3448-0000", "modules must be part numbers"),
        ("arch", "armv8-a+sorcery", 'arch must be such as "armv8.2-a+fp16"'),
        ("arch", "x86-64", "arch must be such as"),
        ("environment", {"A": 1}, "environment must be a table of texts"),
        ("environment", {}, "environment must be a table of texts"),
        ("name", "", "name must be a text"),
        ("threads", 4, "Board: unknown key threads"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown key") as refused:
        parsed({"board": [{**RIGHT, key: value}]})
    assert says in str(refused.value)


@pytest.mark.parametrize("key", RIGHT)
def test_a_missing_value_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is missing"):
        parsed({"board": [{name: value for name, value in RIGHT.items() if name != key}]})


@pytest.mark.parametrize("tables", [{}, {"board": {}}, {"board": [RIGHT], "boards": []}])
def test_what_is_no_list_of_boards(tables: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a list of"):
        parsed(tables)


def test_a_module_has_one_profile() -> None:
    with pytest.raises(ValueError, match="p0000-0001: a module has one profile"):
        parsed({"board": [RIGHT, RIGHT]})


def test_what_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text("[[board]\n")
    with pytest.raises(ValueError, match=r"profiles\.toml is not TOML"):
        load(tmp_path / "profiles.toml")
    assert profiles.FILE.is_file()
