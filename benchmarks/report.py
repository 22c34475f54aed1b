"""What a benchmark says: rows with their targets, as a table and as JSON, and where it was run."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. ``value`` is None where there is none, for the reason in ``note``."""

    name: str
    value: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.at_most is None and self.at_least is None:
            return "-"
        low = self.at_least is None or self.value >= self.at_least
        high = self.at_most is None or self.value <= self.at_most
        return "met" if low and high else "MISSED"

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "-" if self.at_least is None else f">= {self.at_least:g}"


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def table(rows: Sequence[Row]) -> str:
    cells = [("what", "value", "target", "verdict")]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.3g} {row.unit}"
        verdict = f"{row.verdict}: {row.note}" if row.value is None and row.note else row.verdict
        cells.append((row.name, value, row.target, verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True))
        for line in cells
    )


def surroundings(packages: Sequence[str]) -> Mapping[str, object]:
    return {
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
