"""The frame of ``top``: one line for each device, fitted to the terminal.

lab: 3 devices, 1 training, 1 unreachable, 182 tokens/s, 7.2 W

DEVICE  STATE       MEMORY          POWER  TEMP TOK/S JOB       STEP  LOSS TO GO
hall    unreachable –                   –     –     – –            –     –     –
kitchen training    ━━── 3.1/8.1 GB 7.2 W 54 °C   182 persona 48/120 1.234  2:13

hall: Cannot reach device hall (10.0.0.8:7401): connection refused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.cli import units
from controller.cli.fleet_view import Activity, Row, ordered
from controller.cli.output import Table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_RIGHT = {"SWAP-IN", "POWER", "TEMP", "TOK/S", "STEP", "LOSS", "TO GO"}
# Columns that are there only while some device has something to say in them.
_AT_TIMES = {"SWAP-IN", "SUPPLY"}
# From this width on there is room for longer bars and wider gaps.
_WIDE = 100
_MAX_PROBLEMS = 3
_NARROW_BAR, _WIDE_BAR = 4, 12
_STYLES: dict[Activity, str] = {
    Activity.UNREACHABLE: "red",
    Activity.TRAINING: "bold blue",
    Activity.GENERATING: "bold blue",
    Activity.SERVING: "green",
    Activity.IDLE: "",
    Activity.CONNECTING: "dim",
}
_WARM, _HOT = 0.75, 0.9


def frame(headline: str, rows: Sequence[Row], columns: int, lines: int) -> "RenderableType":
    """The whole picture; devices that do not fit into ``lines`` are counted instead of shown."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    shown = ordered(rows)
    problems = [row for row in shown if row.problem][:_MAX_PROBLEMS]
    room = max(1, lines - 5 - len(problems))
    hidden = len(shown) - room if len(shown) > room else 0
    is_wide = columns >= _WIDE
    gap = 2 if is_wide else 1
    grid = Grid(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    columns_of = _columns(rows)
    for name in columns_of:
        grid.add_column(name, justify="right" if name in _RIGHT else "left")
    for row in shown[: len(shown) - hidden]:
        cells = _cells(row, _WIDE_BAR if is_wide else _NARROW_BAR)
        grid.add_row(*(cells[name] for name in columns_of))
    parts: list[RenderableType] = [Text(headline, style="bold"), Text(""), grid]
    if problems:
        parts.append(Text(""))
    for row in problems:
        said = Text(f"{row.device}: {row.problem}", style="red", no_wrap=True, overflow="ellipsis")
        parts.append(said)
    if hidden:
        parts.append(Text(f"… and {hidden} more: choose with -l, or make the window higher."))
    return Group(*parts)


def table(rows: Sequence[Row]) -> Table:
    """The same for a pipe."""
    columns = _columns(rows)
    texts = [_texts(row) for row in ordered(rows)]
    return Table(columns, [[text[name] for name in columns] for text in texts])


def memory_bar(used_bytes: int, total_bytes: int, width: int) -> "Text":
    """``━━━━──── 3.1/8.1 GB``: yellow above three quarters, red above nine tenths."""
    from rich.text import Text

    share = used_bytes / total_bytes if total_bytes else 0.0
    filled = min(width, max(1, round(share * width)))
    style = "red" if share > _HOT else "yellow" if share > _WARM else "green"
    bar = Text("━" * filled, style=style, no_wrap=True, overflow="ellipsis")
    bar.append("─" * (width - filled), style="bright_black")
    bar.append(f" {_memory(used_bytes, total_bytes)}")
    return bar


def _columns(rows: Sequence[Row]) -> list[str]:
    texts = [_texts(row) for row in rows] or [_texts(Row(""))]
    return [
        name
        for name in texts[0]
        if name not in _AT_TIMES or any(text[name] != units.ABSENT for text in texts)
    ]


def _cells(row: Row, bar_width: int) -> dict[str, "Text"]:
    from rich.text import Text

    cells = {
        name: Text(text, no_wrap=True, overflow="ellipsis") for name, text in _texts(row).items()
    }
    cells["STATE"].stylize(_STYLES[row.activity])
    if row.memory_used_bytes is not None and row.memory_total_bytes is not None:
        cells["MEMORY"] = memory_bar(row.memory_used_bytes, row.memory_total_bytes, bar_width)
    return cells


def _texts(row: Row) -> dict[str, str]:
    """By the name of the column, in their order."""
    known = row.memory_used_bytes is not None and row.memory_total_bytes is not None
    memory = _memory(row.memory_used_bytes or 0, row.memory_total_bytes or 0)
    supply = units.supply(row.on_mains, row.battery_percent)
    return {
        "DEVICE": row.device,
        "STATE": row.activity.value,
        "MEMORY": memory if known else units.ABSENT,
        # Nothing that comes back is nothing to look at.
        "SWAP-IN": units.speed(row.swap_in_bytes_per_s, 1)
        if row.swap_in_bytes_per_s
        else units.ABSENT,
        "POWER": units.simulated(units.watts(row.power_mw), row.is_simulated),
        "SUPPLY": units.simulated(supply, row.is_simulated),
        "TEMP": units.simulated(units.celsius(row.temperature_c), row.is_simulated),
        "TOK/S": units.ABSENT if row.tokens_per_s is None else f"{row.tokens_per_s:.0f}",
        "JOB": row.job or units.ABSENT,
        "STEP": units.ABSENT if row.step is None else f"{row.step}/{row.total_steps}",
        "LOSS": units.ABSENT if row.loss is None else f"{row.loss:.3f}",
        "TO GO": units.clock(row.time_to_go_s),
    }


def _memory(used_bytes: int, total_bytes: int) -> str:
    return f"{used_bytes / 1e9:.1f}/{total_bytes / 1e9:.1f} GB"
