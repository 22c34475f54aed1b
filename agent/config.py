"""The agent's settings: agent.toml in the state folder. Every one has a default that runs.

    # nanofleet-agent run --state /var/lib/nanofleet
    [listen]
    host = "0.0.0.0"
    port = 7401
    advertise = ""           # "10.0.0.7:7401": what joining tells the controller; "" lets it see

    [memory]
    reserve_mib = 0          # kept free of workers; 0 is 5 % of the board, at least 128
    most_mib = 0             # what all workers may use together; 0 is all but system and reserve
    floor_mib = 0            # with less available workers yield; 0 is 2 % of the board, at least 48

    [artifacts]
    reserve_mib = 256        # kept free on the disk

    [journal]                   # of what ended jobs have told beside their changes of state
    keep_mib = 32            # kept; above that goes, oldest first, what a controller has
    most_mib = 128           # above that goes what none has, too

    [training]
    threads = 0              # 0: one for each core
    device = ""              # "cpu", "cuda"; "" is the GPU where torch has one that computes right

    [inference]
    threads = 0              # 0: all cores but one
    context_length = 2048
    streams = 0              # answers at once with one adapter; 0: as many as pay, measured
    engine = "llama"         # or "onnxruntime", "transformers"
    quiet_s = 30.0           # a job that made room for requests goes on after so long without one
    idle_s = 900.0           # a model is unloaded after so long without a request; 0: never
    warm_start = true        # the model that was served last is loaded again at the start

    [limits]                    # jobs rest while one is passed; 0, empty and false: no limit
    pause_above_c = 0.0      # of the temperature that stands for the board
    resume_below_c = 0.0     # 0: 10 °C below
    over_current = false     # on each event of under-voltage or average over-current
    pause_above_pressure_percent = 0.0     # of the last 10 s some task waited for memory
    pause_above_swap_in_mib_per_s = 0.0
    hours = []               # ["22:00-06:00"]: when jobs may run, in local time
    mains_only = false
    pause_below_battery_percent = 0.0
    rest_s = 30.0            # a rest ends when its reason was gone for so long

    [power]                     # while a job runs; afterwards it is as it was before
    mode = ""                # nvpmodel's, by name or number; "": it is never changed
    clocks = ""              # "max": jetson_clocks; "": they are never pinned

    [telemetry]
    period_s = 1.0
    ring_mib = 4             # about a day
    beside = ""              # "tegrastats", "jtop": read, too, for what the board's files lack
    jtop_python = ""         # the Python that has jetson-stats; "" is the agent's own

A key that is not known is an error that names the nearest one: a typing mistake must not silently
leave a default in force.
"""

import importlib
import os
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from agent.inference import engines
from agent.operating.limits import OperatingLimits, filled
from protos.errors import InvalidRequest
from protos.limits import problem
from protos.transport import AGENT_PORT

FILE = "agent.toml"
_DEVICES = ("", "cpu", "cuda")
_CLOCKS = ("", "max")
_BESIDE = ("", "tegrastats", "jtop")
STATE_VARIABLE = "NANOFLEET_STATE"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listen:
    host: str = "0.0.0.0"
    port: int = AGENT_PORT
    advertise: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    reserve_mib: int = 0
    most_mib: int = 0
    floor_mib: int = 0


@dataclass(frozen=True, slots=True)
class Artifacts:
    reserve_mib: int = 256


@dataclass(frozen=True, slots=True)
class Journal:
    keep_mib: int = 32
    most_mib: int = 128


@dataclass(frozen=True, slots=True)
class Training:
    threads: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class Inference:
    threads: int = 0
    context_length: int = 2048
    streams: int = 0
    engine: str = engines.DEFAULT
    quiet_s: float = 30.0
    idle_s: float = 900.0
    warm_start: bool = True


@dataclass(frozen=True, slots=True)
class Power:
    mode: str = ""
    clocks: str = ""


@dataclass(frozen=True, slots=True)
class Telemetry:
    period_s: float = 1.0
    ring_mib: int = 4
    beside: str = ""
    jtop_python: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    listen: Listen = field(default_factory=Listen)
    memory: Memory = field(default_factory=Memory)
    artifacts: Artifacts = field(default_factory=Artifacts)
    journal: Journal = field(default_factory=Journal)
    training: Training = field(default_factory=Training)
    inference: Inference = field(default_factory=Inference)
    limits: OperatingLimits = field(default_factory=OperatingLimits)
    power: Power = field(default_factory=Power)
    telemetry: Telemetry = field(default_factory=Telemetry)


def default_state() -> Path:
    """NANOFLEET_STATE, else the system's folder for root and one below the home for others."""
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/nanofleet")
    return Path.home() / ".local/state/nanofleet-agent"


def load(state: Path) -> Config:
    """The settings of the state folder; defaults where the file or a key is missing."""
    path = state / FILE
    if not path.exists():
        return Config()
    # The library is in Python from 3.11 on; a device without the file never loads it.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables = toml.loads(path.read_text())
    except ValueError as error:
        raise InvalidRequest(f"{path} is not TOML: {error}.", field=FILE) from None
    return parsed(tables, str(path))


def parsed(tables: dict[str, object], where: str) -> Config:
    """The settings that the tables of a file give."""
    config = Config()
    _check_known(tables, config, where, "")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _wrong(where, name, f"must be a table: [{name}]")
        section = getattr(config, name)
        config = replace(config, **{name: _section(section, table, where, name)})
    if config.training.device not in _DEVICES:
        raise _wrong(where, "training.device", 'must be "cpu", "cuda" or empty')
    if config.telemetry.beside not in _BESIDE:
        raise _wrong(where, "telemetry.beside", 'must be "tegrastats", "jtop" or empty')
    if config.power.clocks not in _CLOCKS:
        raise _wrong(where, "power.clocks", 'must be "max" or empty')
    if config.journal.most_mib < config.journal.keep_mib:
        raise _wrong(where, "journal.most_mib", "must not be less than journal.keep_mib")
    config = replace(config, limits=filled(config.limits))
    if wrong := problem(config.limits):
        raise _wrong(where, f"limits.{wrong[0]}", wrong[1])
    try:
        engines.named(config.inference.engine)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{where}: inference.engine: {error.what}", why=error.why, fix=error.fix, field="engine"
        ) from None
    return config


def _section(default: T, table: dict[str, object], where: str, name: str) -> T:
    _check_known(table, default, where, f"{name}.")
    changes: dict[str, object] = {}
    for key, value in table.items():
        kind = type(getattr(default, key))
        if kind is float and type(value) is int:
            value = float(value)
        if kind is tuple:
            value = _texts(value, where, f"{name}.{key}")
        if type(value) is not kind:
            raise _wrong(where, f"{name}.{key}", f"must be of type {kind.__name__}")
        if isinstance(value, int | float) and value < 0:
            raise _wrong(where, f"{name}.{key}", "must not be negative")
        changes[key] = value
    return replace(default, **changes)  # type: ignore[type-var]  # T is one of the tables


def _texts(value: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _wrong(where, key, 'must be a list of texts, as ["22:00-06:00"]')
    return tuple(value)


def _check_known(table: dict[str, object], default: object, where: str, prefix: str) -> None:
    known = [item.name for item in fields(default)]  # type: ignore[arg-type]  # a dataclass
    for key in table:
        if key not in known:
            near = importlib.import_module("difflib").get_close_matches(key, known, 1)
            fix = f"Did you mean {prefix}{near[0]}?" if near else f"Known: {', '.join(known)}."
            raise InvalidRequest(f"{where}: unknown key {prefix}{key}.", fix=fix, field=key)


def _wrong(where: str, key: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {key} {why}.", field=key)
