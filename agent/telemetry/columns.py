"""Many samples as columns: a tenth of their bytes, and the same samples again. Pure.

Samples of one shape (the same fields, zones and rails) differ in numbers only, and most numbers do
not change from one second to the next. So the first sample of a shape is written whole, and then,
of each number that changes, the differences; zlib takes what is regular in them.

    batch  := zlib( rows, shape of each row, shapes, shape* )
    shape  := length, first sample, columns, column*
    column := place, coding, unit, first value, difference*

All of these but the samples are zigzag varints. A batch stands alone: nothing outside of it is
needed to read it.
"""

import enum
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

# Where a number is in a sample: names of fields, and places in lists.
_Path: TypeAlias = tuple[str | int, ...]

_DOUBLE, _BITS = struct.Struct("<d"), struct.Struct("<q")
# Sensors tell thousandths at most. With more digits, not every one of them is a double.
_THOUSANDTH = 1000
_MOST = float(1 << 43)


class _Kind(enum.IntEnum):
    """What the whole numbers of a column stand for."""

    WHOLE = 0
    THOUSANDTHS = 1
    BITS = 2


@dataclass(frozen=True, slots=True)
class _Shape:
    number: int
    first: TelemetrySample
    rows: list[list[float]] = field(default_factory=list)


def pack(samples: Sequence[TelemetrySample]) -> bytes:
    """What ``unpack`` makes the same samples of."""
    shapes: dict[tuple[Any, ...], _Shape] = {}
    order = []
    for sample in samples:
        key: list[Any] = []
        numbers: list[float] = []
        _take_apart(sample, key, numbers)
        shape = shapes.setdefault(tuple(key), _Shape(len(shapes), sample))
        shape.rows.append(numbers)
        order.append(shape.number)
    out = bytearray()
    _put(out, [len(order), *order, len(shapes)])
    for shape in shapes.values():
        first = shape.first.SerializeToString()
        columns = list(_columns(zip(*shape.rows, strict=True)))
        _put(out, [len(first)])
        out += first
        _put(out, [len(columns)])
        for column in columns:
            _put(out, column)
    return zlib.compress(out, 9)


def pack_within(
    most_bytes: int, samples: Sequence[TelemetrySample]
) -> Iterator[tuple[int, int, bytes]]:
    """The first and the last number of a batch, and the batch; several where one were too long.
    Raises ValueError when a single sample is."""
    if not samples:
        return
    content = pack(samples)
    if len(content) <= most_bytes:
        yield samples[0].seq, samples[-1].seq, content
        return
    if len(samples) == 1:
        raise ValueError(f"a sample of {len(content)} bytes where {most_bytes} are the most")
    middle = len(samples) // 2
    yield from pack_within(most_bytes, samples[:middle])
    yield from pack_within(most_bytes, samples[middle:])


def unpack(data: bytes) -> list[TelemetrySample]:
    """Raises ValueError for what ``pack`` has not made."""
    try:
        reader = _Reader(zlib.decompress(data))
        order = reader.take(reader.one())
        shapes = [_read_shape(reader, order.count(number)) for number in range(reader.one())]
        return [next(shapes[number]) for number in order]
    except (zlib.error, IndexError, StopIteration) as error:
        raise ValueError(f"no batch of samples: {error!r}") from error


def _take_apart(message: Message, key: list[Any], numbers: list[float]) -> None:
    """``key``: all that is no number. The numbers are in the order of ``_paths``."""
    for descriptor, value in message.ListFields():
        key.append(descriptor.number)
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            key.append(tuple(value) if descriptor.is_repeated else value)
        elif descriptor.type != FieldDescriptor.TYPE_MESSAGE:
            numbers.append(value)
        elif descriptor.is_repeated:
            for one in value:
                _take_apart(one, key, numbers)
        else:
            _take_apart(value, key, numbers)
    key.append(None)  # the end of this message


def _paths(message: Message, above: _Path = ()) -> Iterator[_Path]:
    for descriptor, value in message.ListFields():
        here = (*above, descriptor.name)
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            continue
        if descriptor.type != FieldDescriptor.TYPE_MESSAGE:
            yield here
        elif descriptor.is_repeated:
            for place, one in enumerate(value):
                yield from _paths(one, (*here, place))
        else:
            yield from _paths(value, here)


def _columns(columns: Iterable[tuple[float, ...]]) -> Iterator[list[int]]:
    """Those that change."""
    before: Sequence[int] = ()
    for place, column in enumerate(columns):
        if column.count(column[0]) == len(column):
            before = ()
            continue
        kind = _kind(column)
        values = [_whole(value, kind) for value in column]
        yield [place, *_coded(values, before, kind)]
        before = values


def _coded(values: Sequence[int], before: Sequence[int], kind: _Kind) -> list[int]:
    """The shortest of four ways: with or without the column ``before`` taken off (one clock follows
    the other), as differences or as their differences (a clock goes on evenly)."""
    found: list[tuple[int, list[int]]] = []
    for beside in (False, True) if before else (False,):
        plain = [a - b for a, b in zip(values, before, strict=True)] if beside else values
        unit = math.gcd(*(value - plain[0] for value in plain)) or 1
        steps = _differences([(value - plain[0]) // unit for value in plain])
        for twice in (False, True):
            rest = _differences(steps) if twice else steps
            bits = sum(value.bit_length() for value in rest)
            found.append((bits, [kind << 2 | beside << 1 | twice, unit, plain[0], *rest[1:]]))
    return min(found)[1]


def _differences(values: Sequence[int]) -> list[int]:
    return [value - before for value, before in zip(values, [0, *values], strict=False)]


def _read_shape(reader: "_Reader", rows: int) -> Iterator[TelemetrySample]:
    first = TelemetrySample.FromString(reader.raw(reader.one()))
    paths = list(_paths(first))
    columns: dict[_Path, list[float]] = {}
    read: dict[int, list[int]] = {}
    for _ in range(reader.one()):
        place, coding, unit, base = reader.take(4)
        steps = [0, *reader.take(rows - 1)]
        if coding & 1:
            steps = list(accumulate(steps))
        values = [base + unit * value for value in accumulate(steps)]
        if coding & 2:
            values = [a + b for a, b in zip(values, read[place - 1], strict=True)]
        read[place] = values
        kind = _Kind(coding >> 2)
        columns[paths[place]] = [_number(value, kind) for value in values]
    return _samples(first, columns, rows)


def _samples(
    first: TelemetrySample, columns: Mapping[_Path, Sequence[float]], rows: int
) -> Iterator[TelemetrySample]:
    for row in range(rows):
        sample = TelemetrySample()
        sample.CopyFrom(first)
        for path, values in columns.items():
            owner: Any = sample
            for step in path[:-1]:
                owner = owner[step] if isinstance(step, int) else getattr(owner, step)
            setattr(owner, str(path[-1]), values[row])
        yield sample


def _kind(column: Sequence[float]) -> _Kind:
    if not isinstance(column[0], float):
        return _Kind.WHOLE
    exact = all(
        abs(value) < _MOST and round(value * _THOUSANDTH) / _THOUSANDTH == value for value in column
    )
    return _Kind.THOUSANDTHS if exact else _Kind.BITS


def _whole(value: float, kind: _Kind) -> int:
    if kind is _Kind.BITS:
        bits: int = _BITS.unpack(_DOUBLE.pack(value))[0]
        return bits
    return round(value * _THOUSANDTH) if kind is _Kind.THOUSANDTHS else int(value)


def _number(value: int, kind: _Kind) -> float:
    if kind is _Kind.BITS:
        double: float = _DOUBLE.unpack(_BITS.pack(value))[0]
        return double
    return value / _THOUSANDTH if kind is _Kind.THOUSANDTHS else value


def _put(out: bytearray, values: Iterable[int]) -> None:
    for value in values:
        rest = value << 1 if value >= 0 else (-value << 1) - 1
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def one(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> list[int]:
        return list(islice(self._varints(), count))

    def raw(self, length: int) -> bytes:
        start, self._position = self._position, self._position + length
        return self._data[start : self._position]

    def _varints(self) -> Iterator[int]:
        while True:
            value = shift = 0
            while (byte := self._data[self._position]) > 0x7F:
                value |= (byte & 0x7F) << shift
                shift += 7
                self._position += 1
            value |= byte << shift
            self._position += 1
            yield value >> 1 if not value & 1 else -(value + 1 >> 1)
