"""What ``top`` knows of a device: one row, made from its newest telemetry sample."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from controller.cli.job_view import board_c
from controller.cli.plain import Plain
from protos.nanofleet.v1 import telemetry_pb2

_Worker = telemetry_pb2.WorkerSample


class Activity(str, enum.Enum):
    """In the order in which ``top`` shows the devices: what needs eyes first."""

    UNREACHABLE = "unreachable"
    TRAINING = "training"
    GENERATING = "generating"
    SERVING = "serving"
    IDLE = "idle"
    CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class Row:
    device: str
    activity: Activity = Activity.CONNECTING
    problem: str = ""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_mw: int | None = None
    temperature_c: float | None = None
    on_mains: bool | None = None
    battery_percent: float | None = None
    swap_in_bytes_per_s: float | None = None
    # Power, temperature, supply and memory are those of a simulated board.
    is_simulated: bool = False
    tokens_per_s: float | None = None
    job_id: str = ""
    job: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    time_to_go_s: float | None = None
    utc_ns: int = 0


def row_of(device: str, sample: telemetry_pb2.TelemetrySample, job_names: Mapping[str, str]) -> Row:
    """The row of a device that answers; a job that the controller does not know shows its id."""
    memory, supply = sample.memory, sample.supply
    row = Row(
        device=device,
        activity=Activity.IDLE,
        memory_used_bytes=memory.total_bytes - memory.available_bytes,
        memory_total_bytes=memory.total_bytes,
        power_mw=sample.power.total_mw if sample.power.HasField("total_mw") else None,
        temperature_c=board_c(sample),
        on_mains=supply.on_mains if supply.HasField("on_mains") else None,
        battery_percent=supply.battery_percent if supply.HasField("battery_percent") else None,
        swap_in_bytes_per_s=(
            memory.swap_in_bytes_per_s if memory.HasField("swap_in_bytes_per_s") else None
        ),
        is_simulated=sample.simulated,
        utc_ns=sample.utc_ns,
    )
    workers = {worker.kind: worker for worker in sample.workers}
    if serving := workers.get(_Worker.KIND_INFERENCE):
        row = replace(row, activity=Activity.SERVING, tokens_per_s=_tokens_per_s(serving))
    if training := workers.get(_Worker.KIND_TRAINING):
        row = _with_job(row, training, Activity.TRAINING, job_names)
    if generating := workers.get(_Worker.KIND_GENERATING):
        row = _with_job(row, generating, Activity.GENERATING, job_names)
    return row


def unreachable(row: Row, problem: str) -> Row:
    """The device does not answer: what it last said would be read as true now, so it goes."""
    return Row(device=row.device, activity=Activity.UNREACHABLE, problem=problem, utc_ns=row.utc_ns)


def ordered(rows: Iterable[Row]) -> list[Row]:
    rank = {activity: position for position, activity in enumerate(Activity)}
    return sorted(rows, key=lambda row: (rank[row.activity], row.device))


def headline(fleet: str, rows: Iterable[Row]) -> str:
    """``lab: 12 devices, 3 training, 1 unreachable, 540 tokens/s, 34.1 W``."""
    from controller.cli import units

    known = list(rows)
    said = [f"{len(known)} device" + ("s" if len(known) != 1 else "")]
    for activity in Activity:
        count = sum(row.activity is activity for row in known)
        if count and activity is not Activity.IDLE:
            said.append(f"{count} {activity.value}")
    rates = [row.tokens_per_s for row in known if row.tokens_per_s is not None]
    powers = [row.power_mw for row in known if row.power_mw is not None]
    if rates:
        said.append(units.rate(sum(rates)))
    if powers:
        is_simulated = any(row.is_simulated and row.power_mw is not None for row in known)
        said.append(units.simulated(units.watts(sum(powers)), is_simulated))
    return f"{fleet}: " + ", ".join(said)


def as_plain(row: Row) -> dict[str, Plain]:
    return {
        "device": row.device,
        "activity": row.activity.value,
        "problem": row.problem or None,
        "memory_used_bytes": row.memory_used_bytes,
        "memory_total_bytes": row.memory_total_bytes,
        "power_mw": row.power_mw,
        "temperature_c": row.temperature_c,
        "on_mains": row.on_mains,
        "battery_percent": row.battery_percent,
        "swap_in_bytes_per_s": row.swap_in_bytes_per_s,
        "simulated": row.is_simulated,
        "tokens_per_s": row.tokens_per_s,
        "job_id": row.job_id or None,
        "job": row.job or None,
        "step": row.step,
        "total_steps": row.total_steps,
        "loss": row.loss,
        "time_to_go_s": row.time_to_go_s,
        "utc_ns": row.utc_ns or None,
    }


def _with_job(row: Row, worker: _Worker, activity: Activity, job_names: Mapping[str, str]) -> Row:
    return replace(
        row,
        activity=activity,
        tokens_per_s=_tokens_per_s(worker),
        job_id=worker.job_id,
        job=job_names.get(worker.job_id, worker.job_id),
        step=worker.step if worker.HasField("step") else None,
        total_steps=worker.total_steps if worker.HasField("total_steps") else None,
        loss=worker.loss if worker.HasField("loss") else None,
        time_to_go_s=worker.time_to_go_s if worker.HasField("time_to_go_s") else None,
    )


def _tokens_per_s(worker: _Worker) -> float | None:
    return worker.tokens_per_s if worker.HasField("tokens_per_s") else None
