"""What is recommended for each board: profiles.toml, read strictly.

The file is a part of the package and is edited by people: a key that is missing, unknown or of
another type is an error that names the board, not a default that nobody chose.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

FILE = Path(__file__).with_name("profiles.toml")
# What people build the engine with; the rest of the flags is the same for every board.
_CMAKE_ARGS = "-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH={arch} -DLLAVA_BUILD=OFF"
# GCC's names of abilities, and the kernel's in /proc/cpuinfo.
_FEATURES = {
    "bf16": "bf16",
    "crc": "crc32",
    "dotprod": "asimddp",
    "fp16": "asimdhp",
    "i8mm": "i8mm",
}
_ARCH = re.compile(r"armv(8(\.\d)?|9(\.\d)?)-a(\+\w+)*")
_MODULE = re.compile(r"p\d{4}-\d{4}")
_CHOICES = {
    "engine": ("llama", "onnxruntime", "transformers"),
    "data_type": ("float32", "bfloat16"),
    "fits_1b": ("both", "serving"),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The recommendation for one kind of board; the file says what each value means."""

    name: str
    modules: tuple[str, ...]
    engine: str
    training_threads: int
    inference_threads: int
    data_type: str
    context_length: int
    memory_budget_mib: int
    fits_1b: str
    slowest_power_w: int
    arch: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cmake_args(self) -> str:
        """CMAKE_ARGS for llama-cpp-python."""
        return _CMAKE_ARGS.format(arch=self.arch)

    @property
    def cpu_features(self) -> frozenset[str]:
        """What a processor must have to run a build with these flags, in the kernel's words."""
        return frozenset(_FEATURES[ability] for ability in self.arch.split("+")[1:])


def load(file: Path = FILE) -> tuple[Profile, ...]:
    """Raises ValueError that names the board and the key."""
    # The library is in Python from 3.11 on.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables = toml.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file.name} is not TOML: {error}") from None
    return parsed(tables)


def parsed(tables: Mapping[str, object]) -> tuple[Profile, ...]:
    """The profiles of a file's tables."""
    boards = tables.get("board")
    if set(tables) != {"board"} or not isinstance(boards, list):
        raise ValueError("profiles are a list of [[board]] and nothing else")
    profiles = tuple(_profile(table) for table in boards)
    modules = [module for profile in profiles for module in profile.modules]
    twice = sorted({module for module in modules if modules.count(module) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: a module has one profile")
    return profiles


def profile_of(module: str | None) -> Profile | None:
    """The profile of a module by its part number; None when there is none."""
    return next((profile for profile in load() if module in profile.modules), None)


def _profile(table: Mapping[str, object]) -> Profile:
    where = str(table.get("name", "a board without a name"))
    known = {item.name: item for item in fields(Profile)}
    required = {name for name, item in known.items() if item.default_factory is MISSING}
    for key in sorted(required - set(table)):
        raise ValueError(f"{where}: {key} is missing")
    for key in sorted(set(table) - set(known)):
        raise ValueError(f"{where}: unknown key {key}")
    values: dict[str, Any] = {key: _value(where, key, value) for key, value in table.items()}
    return Profile(**values)


def _value(where: str, key: str, value: object) -> object:
    match key:
        case "modules":
            right = _all_texts(value) and all(map(_MODULE.fullmatch, cast(list[str], value)))
            wanted = 'part numbers: ["p3448-0000"]'
        case "environment":
            right = isinstance(value, dict) and _all_texts(list(value.values()))
            wanted = "a table of texts"
        case "name":
            right, wanted = isinstance(value, str) and bool(value), "a text"
        case "arch":
            right = isinstance(value, str) and _ARCH.fullmatch(value) is not None
            right = right and set(str(value).split("+")[1:]) <= set(_FEATURES)
            wanted = f'such as "armv8.2-a+fp16", of the abilities {", ".join(_FEATURES)}'
        case _ if key in _CHOICES:
            right, wanted = value in _CHOICES[key], f"one of {', '.join(_CHOICES[key])}"
        case _:
            right, wanted = type(value) is int and value > 0, "a number above 0"
    if not right:
        raise ValueError(f"{where}: {key} must be {wanted}, and is {value!r}")
    return tuple(cast(list[str], value)) if key == "modules" else value


def _all_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
