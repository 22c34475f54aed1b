"""What workers really took, beside what was forecast: the next forecast is no smaller.

Kept for each kind of work on a base, by its shape (a recipe's settings, a context's length) and the
engine. The same shape again is expected to take what it took; another one on that base and engine,
as much above its forecast as the worst so far. A first step that took less says nothing of the
longest sample, so nothing ever makes a forecast smaller. Pure.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from agent.memory.forecast import MB, Forecast, Part
from protos.nanofleet.v1.job_pb2 import TrainSpec

MOST_KEPT = 256
MEASURED = "measured above the forecast"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Work:
    """``kind``: "training", "generation" or "serving"; ``shape``: what of its settings its memory
    depends on."""

    kind: str
    base_digest: str
    shape: str
    engine: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The most that was seen, rounded up to a megabyte: in all, and above the forecast, which may
    have been another one at another time."""

    measured_bytes: int
    above_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Calibration:
    taken: Mapping[Work, Taken] = field(default_factory=dict)

    def noted(self, work: Work, forecast: Forecast, measured_bytes: int) -> "Calibration":
        """Itself when nothing new was seen. The work that was noted first is forgotten first."""
        known = self.taken.get(work, Taken(0))
        above_bytes = measured_bytes - predicted(forecast).anonymous_bytes
        seen = Taken(
            max(known.measured_bytes, _rounded_up(measured_bytes)),
            max(known.above_bytes, _rounded_up(above_bytes)),
        )
        if seen == known:
            return self
        taken = {**self.taken, work: seen}
        return Calibration(dict(list(taken.items())[-MOST_KEPT:]))

    def applied(self, work: Work, forecast: Forecast) -> Forecast:
        """The forecast with what is known beyond it."""
        plain = predicted(forecast)
        above_bytes = self._above_bytes(work, plain.anonymous_bytes)
        if not above_bytes:
            return plain
        return replace(plain, anonymous=(*plain.anonymous, Part(MEASURED, above_bytes)))

    def _above_bytes(self, work: Work, forecast_bytes: int) -> int:
        above = [0]
        if known := self.taken.get(work):
            above.append(known.measured_bytes - forecast_bytes)
        above += [
            taken.above_bytes
            for other, taken in self.taken.items()
            if replace(other, shape=work.shape) == work
        ]
        return max(above)


def _rounded_up(size_bytes: int) -> int:
    return -(-size_bytes // MB) * MB


def predicted(forecast: Forecast) -> Forecast:
    """Without what is known from measurements."""
    plain = tuple(part for part in forecast.anonymous if part.name != MEASURED)
    return replace(forecast, anonymous=plain)


def measured_bytes(forecast: Forecast) -> int:
    """What of it is known from measurements."""
    return forecast.anonymous_bytes - predicted(forecast).anonymous_bytes


def recipe_shape(train: TrainSpec) -> str:
    targets = ",".join(sorted(train.lora.targets))
    return (
        f"{train.sequence_length} tokens, rank {train.lora.rank} on {targets},"
        f" {train.stored_layers} stored layers, budget {train.memory_budget_bytes},"
        f" packing {train.packing}, evaluation {train.HasField('evaluation')}"
    )


def written(calibration: Calibration, version: str) -> bytes:
    """``version``: the agent's. What another version's workers took says little of this one's."""
    entries = [{**asdict(work), **asdict(taken)} for work, taken in calibration.taken.items()]
    content = {"format_version": _FORMAT, "agent_version": version, "taken": entries}
    return json.dumps(content, indent=1).encode() + b"\n"


def read(data: bytes, version: str) -> Calibration:
    """Raises ValueError that says why it cannot be used."""
    content = json.loads(data)
    try:
        if content["format_version"] != _FORMAT or content["agent_version"] != version:
            raise ValueError(f"it was written by version {content['agent_version']}")
        return Calibration(dict(map(_entry, content["taken"][-MOST_KEPT:])))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not as it was written: {error!r}") from None


def _entry(entry: Mapping[str, object]) -> tuple[Work, Taken]:
    names = [entry[name] for name in ("kind", "base_digest", "shape", "engine")]
    sizes = [entry[name] for name in ("measured_bytes", "above_bytes")]
    for size in sizes:
        if type(size) is not int or not 0 <= size < 1 << 50:
            raise ValueError(f"{size!r} is no size")
    return Work(*map(str, names)), Taken(*(int(str(size)) for size in sizes))
