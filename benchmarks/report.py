"""What every benchmark has: its command line, rows with their targets as a table and as JSON, and
where it was run."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

BenchT = TypeVar("BenchT")


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


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Of ``python -m benchmarks.NAME``, with the module's own text as the help."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def choose(parser: argparse.ArgumentParser, option: str, names: Collection[str]) -> argparse.Action:
    """An option for some of ``names``, with commas between them; all of them unless given."""

    def chosen(given: str) -> list[str]:
        asked = given.split(",")
        if unknown := [name for name in asked if name not in names]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(names)}")
        return asked

    return parser.add_argument(option, type=chosen, default=list(names), metavar=",".join(names))


def models_folder() -> Path:
    """Where the models of a real shape are kept, between one run and the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanofleet" / "models"


async def in_turn(
    groups: Mapping[str, Callable[[BenchT], Awaitable[list[Row]]]],
    names: Sequence[str],
    bench: BenchT,
) -> list[Row]:
    """The rows of the named groups, one after the other; each is said before it begins."""
    rows = []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        rows += await groups[name](bench)
    return rows


def measured(packages: Sequence[str], rows: Sequence[Row]) -> dict[str, object]:
    """The document of these rows, which its caller completes with the runs they are made of."""
    return {
        **surroundings(packages),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
    }


def write(path: Path, document: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


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
