"""Lines of tegrastats, of all five generations, whole or damaged.

    RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB)
    CPU [16%@204,off] EMC_FREQ 0%@204 GR3D_FREQ 0%@[305,305] VIC_FREQ 115 NVENC off
    MTS fg 0% bg 0% cpu@44.125C VDD_IN 4915mW/4915mW

The text has changed with every release: an optional time in front, rails with and without units
and with two or three numbers, lists of clocks, engines with and without _FREQ, runs of spaces. A
rail and a zone may share a name (GPU 0/0, GPU@36C, CPU [16%@204]). So a token is known by its
shape, wherever it stands, and what has no known shape is named in ``unread``.

A line may be cut at either end (a log that was rotated, a process that was killed). Two things then
look whole and are not: a name that lost its head, which only the first token of a line without
"RAM" or a time can be; and a number without a unit that lost its tail, which only the last token
can be. Both are unread. Averages are left out: they are over the life of the tegrastats process.

Facts: NVIDIA's page of tegrastats for each release; recorded lines of r32, r35, r36, r38 and r39.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from jetson.gpu import GpuReading
from jetson.memory import FreeBlock
from jetson.power import NOT_RAILS, PowerReading, Rail, with_total
from jetson.thermal import Heat, Temperature, heat_of

# Zones that are no sensors: a constant, and a weighted mean made for the fan.
_NOT_ZONES = frozenset({"PMIC", "thermal"})
_OFFLINE_C = -256.0
_UNITS = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

_STAMP = re.compile(r"(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d)(?=\s|$)")
_TOKENS: dict[str, re.Pattern[str]] = {
    family: re.compile(pattern + r"(?=\s|$)")
    for family, pattern in {
        "ram": r"RAM\s+(\d{1,9})/(\d{1,9})MB(?:\s*\(lfb (?:N/A|(\d{1,6})x(\d{1,9})(kB|MB|GB))\))?",
        "swap": r"SWAP\s+(\d{1,9})/(\d{1,9})MB(?:\s*\(cached (\d{1,9})MB\))?",
        "iram": r"IRAM\s+(\d{1,9})/(\d{1,9})kB(?:\s*\(lfb \d{1,9}kB\))?",
        "cores": r"CPU\s+\[((?:(?:\d{1,3}%(?:@\d{1,6})?|off),?\s*)+)\]",
        "emc": r"EMC_FREQ\s+(\d{1,3})%(?:@(\d{1,6}))?",
        "gpu": r"GR3D_FREQ\s+(?=[\d@])(?:(\d{1,3})%)?(?:@(\d{1,6}|\[\d{1,6}(?:,\d{1,6})*\]))?",
        "mts": r"MTS\s+fg\s+(\d{1,3})%\s+bg\s+(\d{1,3})%",
        "zone": r"([A-Za-z][\w.-]*)@(-?\d{1,3}(?:\.\d{1,6})?)C(?:/-?\d{1,3}(?:\.\d{1,6})?C)?",
        "rail": r"(?!(?:RAM|SWAP|IRAM)\b)([A-Za-z]\w*)\s+(\d{1,7})(mW|)/\d{1,7}\3(?:/\d{1,7}\3)?",
        "engine": r"(?!(?:RAM|SWAP|IRAM|CPU|EMC|GR3D|MTS)(?:_FREQ)?\s)([A-Z][A-Z0-9]*)(?:_FREQ)?"
        r"\s+(off|@?(\d{1,6})|(\d{1,3})%(?:@(\d{1,6}))?)",
    }.items()
}
# Their names are not known beforehand, so one that lost its head cannot be told from another.
_OPEN = frozenset({"zone", "rail", "engine"})
# They may end in a number without a unit.
_UNITLESS = frozenset({"emc", "gpu", "engine"})


@dataclass(frozen=True, slots=True)
class Used:
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Clocked:
    """A core or an engine. What is not told is None."""

    load_percent: int | None
    frequency_mhz: int | None


@dataclass(slots=True)
class TegrastatsLine:
    """What a line says; what it does not say, or says in a damaged token, is None or missing."""

    # Local time of the board, from r34 on.
    stamp: datetime | None = None
    ram: Used | None = None
    largest_free_block: FreeBlock | None = None
    swap: Used | None = None
    swap_cached_bytes: int | None = None
    iram: Used | None = None
    # In order; None: switched off.
    cores: list[Clocked | None] = field(default_factory=list)
    emc: Clocked | None = None
    gpu: GpuReading | None = None
    # By name, without _FREQ; None: switched off.
    engines: dict[str, Clocked | None] = field(default_factory=dict)
    # Shares of the foreground and the background of Denver's and Carmel's code translation.
    mts_percent: tuple[int, int] | None = None
    temperatures: list[Temperature] = field(default_factory=list)
    offline_zones: list[str] = field(default_factory=list)
    rails: list[Rail] = field(default_factory=list)
    # Pieces of the line that were not understood.
    unread: list[str] = field(default_factory=list)

    @property
    def power(self) -> PowerReading | None:
        """The rails with their total. A damaged line may lack some of a sum: it has none."""
        if not self.rails:
            return None
        reading = with_total(tuple(self.rails))
        is_sum = all(rail.name != reading.total_source for rail in self.rails)
        if is_sum and self.unread:
            return PowerReading(reading.rails, None, reading.total_source)
        return reading

    @property
    def heat(self) -> Heat | None:
        return heat_of(self.temperatures, ())


def parse_tegrastats(line: str) -> TegrastatsLine:
    """Never raises: an empty line, or one of another program, is unread."""
    text, found = line.strip(), TegrastatsLine()
    position = _take_stamp(text, found)
    while position < len(text):
        taken = _take_token(text, position, found)
        if not taken:
            piece = re.compile(r"\S+").match(text, position)
            taken = len(piece[0]) if piece else 1
            if piece:
                found.unread.append(piece[0])
        position += taken
    return found


def _take_stamp(text: str, found: TegrastatsLine) -> int:
    stamp = _STAMP.match(text)
    if stamp is None:
        return 0
    try:
        found.stamp = datetime.strptime(stamp[1], "%m-%d-%Y %H:%M:%S")
    except ValueError:
        found.unread.append(stamp[1])
    return stamp.end()


def _take_token(text: str, position: int, found: TegrastatsLine) -> int:
    """The length of the token that begins here; 0 when none does."""
    for family, pattern in _TOKENS.items():
        token = pattern.match(text, position)
        if token is None:
            continue
        lost_head = position == 0 and family in _OPEN
        lost_tail = token.end() == len(text) and family in _UNITLESS and text[-1].isdigit()
        if lost_head or lost_tail:
            found.unread.append(token[0])
        else:
            _TAKE[family](token, found)
        return len(token[0])
    return 0


def _ram(token: re.Match[str], found: TegrastatsLine) -> None:
    found.ram = Used(int(token[1]) << 20, int(token[2]) << 20)
    if token[3] is not None:
        found.largest_free_block = FreeBlock(int(token[4]) * _UNITS[token[5]], int(token[3]))


def _swap(token: re.Match[str], found: TegrastatsLine) -> None:
    found.swap = Used(int(token[1]) << 20, int(token[2]) << 20)
    found.swap_cached_bytes = None if token[3] is None else int(token[3]) << 20


def _iram(token: re.Match[str], found: TegrastatsLine) -> None:
    found.iram = Used(int(token[1]) << 10, int(token[2]) << 10)


def _cores(token: re.Match[str], found: TegrastatsLine) -> None:
    for core in re.findall(r"off|\d+%(?:@\d+)?", token[1]):
        load, _, clock = core.partition("%")
        found.cores.append(None if core == "off" else Clocked(int(load), _number(clock[1:])))


def _emc(token: re.Match[str], found: TegrastatsLine) -> None:
    found.emc = Clocked(int(token[1]), _number(token[2]))


def _gpu(token: re.Match[str], found: TegrastatsLine) -> None:
    """One clock for each graphics cluster; the fastest stands for the GPU."""
    clocks = [int(clock) for clock in re.findall(r"\d+", token[2] or "")]
    load = _number(token[1])
    found.gpu = GpuReading(None if load is None else float(load), max(clocks, default=None))


def _mts(token: re.Match[str], found: TegrastatsLine) -> None:
    found.mts_percent = int(token[1]), int(token[2])


def _zone(token: re.Match[str], found: TegrastatsLine) -> None:
    name, celsius = token[1], float(token[2])
    if celsius == _OFFLINE_C:
        found.offline_zones.append(name)
    elif name not in _NOT_ZONES:
        found.temperatures.append(Temperature(name, celsius))


def _rail(token: re.Match[str], found: TegrastatsLine) -> None:
    if token[1] not in NOT_RAILS:
        found.rails.append(Rail(token[1], int(token[2])))


def _engine(token: re.Match[str], found: TegrastatsLine) -> None:
    is_off = token[2] == "off"
    clock = Clocked(_number(token[4]), _number(token[3] or token[5]))
    found.engines[token[1]] = None if is_off else clock


def _number(digits: str | None) -> int | None:
    return int(digits) if digits else None


_TAKE: dict[str, Callable[[re.Match[str], TegrastatsLine], None]] = {
    "ram": _ram,
    "swap": _swap,
    "iram": _iram,
    "cores": _cores,
    "emc": _emc,
    "gpu": _gpu,
    "mts": _mts,
    "zone": _zone,
    "rail": _rail,
    "engine": _engine,
}
