"""Reads jetson-stats and writes a line of JSON a second: a program, never imported.

    /usr/bin/python3 jetson/jtop_reader.py

It is run by the Python that has jetson-stats, which may be that of JetPack 4: so this file is plain
Python 3.6 and imports nothing of ours. Rails are in mW, instantaneous; jtop's own averages and its
total are left out (the first is smoothed over an unknown time, the second is sometimes a sum). When
it cannot read, its last line is {"trouble": KIND, "why": TEXT}.
"""

import importlib
import json
import sys
from typing import Any

INTERVAL_S = 1.0
_OFFLINE_C = -256


def main() -> int:
    try:
        jtop = importlib.import_module("jtop")
    except ImportError as error:
        return trouble("missing", error)
    try:
        with jtop.jtop(interval=INTERVAL_S) as board:
            while board.ok():
                tell(reading(board))
    except jtop.JtopException as error:
        return trouble(kind_of(str(error)), error)
    except PermissionError as error:
        return trouble("denied", error)
    except (BrokenPipeError, KeyboardInterrupt):
        return 0
    return trouble("inactive", "The service ended.")


def reading(board: Any) -> "dict[str, Any]":
    """Parts that a version or a board lacks are left out."""
    rails = get(board, "power", "rail")
    zones = get(board, "temperature")
    engines = get(board, "gpu").values()
    gpu = next((engine for engine in engines if isinstance(engine, dict)), {})
    return {
        "rails_mw": {
            name: rail.get("power") for name, rail in rails.items() if rail.get("online", True)
        },
        "celsius": {name: zone.get("temp") for name, zone in zones.items() if is_online(zone)},
        "offline": [name for name, zone in zones.items() if not is_online(zone)],
        "load_percent": {"gpu": get(gpu, "status").get("load")},
        "mhz": {
            "gpu": mhz(get(gpu, "freq").get("cur")),
            "emc": mhz(get(board, "memory", "EMC").get("cur")),
        },
    }


def get(source: Any, *names: str) -> "dict[str, Any]":
    """A table inside tables, or inside an object; empty where there is none."""
    for name in names:
        source = source.get(name) if hasattr(source, "get") else getattr(source, name, None)
    return dict(source) if hasattr(source, "items") else {}


def is_online(zone: "dict[str, Any]") -> bool:
    return bool(zone.get("online", True)) and zone.get("temp") != _OFFLINE_C


def mhz(khz: Any) -> Any:
    return khz / 1000 if type(khz) in (int, float) else None


def kind_of(said: str) -> str:
    """What jtop's one kind of exception means, by its words."""
    words = said.lower()
    if "mismatch" in words:
        return "mismatch"
    if "not active" in words or "not running" in words:
        return "inactive"
    if "permission" in words or "denied" in words or "group" in words:
        return "denied"
    return "other"


def trouble(kind: str, why: object) -> int:
    tell({"trouble": kind, "why": " ".join(str(why).split())})
    return 1


def tell(told: "dict[str, Any]") -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
