"""What jetson/jtop_reader.py writes, and what to do when it says that it cannot.

The reader is a program of its own, run by the Python that has jetson-stats. The agent never imports
that package: it changes how processes are started in whoever imports it, and talking to its service
means unpickling what root sends.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jetson.emc import EmcReading
from jetson.gpu import GpuReading
from jetson.observed import Observed
from jetson.power import Rail, with_total
from jetson.thermal import Temperature
from protos.errors import WorkerFailed

_READER = Path(__file__).parents[2] / "jetson" / "jtop_reader.py"

# By what the reader found: what happened, and what to do.
_TROUBLES = {
    "missing": (
        "jetson-stats is not installed for the Python that should read it.",
        "Install the extra nanofleet[jetson], or name a Python that has it: telemetry.jtop_python"
        " in agent.toml.",
    ),
    "inactive": (
        "The jtop service is not active.",
        "Start it: sudo systemctl restart jtop.service",
    ),
    "mismatch": (
        "The jtop service and its client are of different versions.",
        "Install the service's version for the client (pip install jetson-stats==VERSION), and"
        " run both with the same Python: telemetry.jtop_python in agent.toml.",
    ),
    "denied": (
        "The agent may not talk to the jtop service.",
        "Add its user to the group jtop and restart it. Who talks to that service can become root.",
    ),
    "other": ("jtop cannot be read.", 'Run `jtop` by hand, or set telemetry.beside to "".'),
}


def command(python: str) -> Sequence[str]:
    """``python``: that which has jetson-stats; empty: the agent's own."""
    return (python or sys.executable, str(_READER))


def parse(line: str) -> Observed:
    """A line of the reader. Raises WorkerFailed for one that explains why there is no reading."""
    try:
        told = json.loads(line)
    except ValueError as error:
        raise WorkerFailed("jtop's reader wrote what is no JSON.", why=f"{error}.") from error
    if not isinstance(told, dict):
        raise WorkerFailed("jtop's reader wrote what is no reading.")
    if "trouble" in told:
        what, fix = _TROUBLES.get(str(told["trouble"]), _TROUBLES["other"])
        raise WorkerFailed(what, why=str(told.get("why", "")), fix=fix)
    rails = tuple(Rail(name, round(mw)) for name, mw in _numbers(told, "rails_mw").items())
    celsius = _numbers(told, "celsius")
    clocks = _numbers(told, "mhz")
    load = _numbers(told, "load_percent").get("gpu")
    gpu_mhz, emc_mhz = clocks.get("gpu"), clocks.get("emc")
    has_gpu = load is not None or gpu_mhz is not None
    return Observed(
        power=with_total(rails) if rails else None,
        temperatures=tuple(Temperature(name, value) for name, value in celsius.items()),
        offline_zones=tuple(map(str, told.get("offline", ()))),
        gpu=GpuReading(load, None if gpu_mhz is None else round(gpu_mhz)) if has_gpu else None,
        emc=None if emc_mhz is None else EmcReading(None, round(emc_mhz)),
    )


def _numbers(told: Mapping[str, object], key: str) -> dict[str, float]:
    """Names and numbers; what is none is left out."""
    table = told.get(key)
    pairs = table.items() if isinstance(table, dict) else ()
    return {str(name): float(value) for name, value in pairs if type(value) in (int, float)}
