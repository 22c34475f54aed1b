"""What a job took of its board, and what the board was like: figures of a simulated one say so."""

from controller.cli import units
from protos.nanofleet.v1 import job_pb2


def energy(result: job_pb2.JobResult) -> str:
    """What the job took of it."""
    joules = result.energy_j if result.HasField("energy_j") else None
    return units.simulated(units.energy(joules), result.circumstances.simulated)


def forecast_energy(plan: job_pb2.JobPlan) -> str:
    """What the job will take of it, by its rehearsal."""
    joules = plan.energy_j if plan.HasField("energy_j") else None
    return units.simulated(units.energy(joules), plan.simulated)


def circumstances(board: job_pb2.Circumstances) -> str:
    """``15W (0), 6 cores, clocks free; 7.2 W VDD_IN; 52 °C mean, 58 °C peak (tj-thermal)``."""
    return "; ".join(filter(None, (_mode(board), _draw(board), _heat(board), _events(board))))


def _mode(board: job_pb2.Circumstances) -> str:
    parts = [board.power_mode] if board.power_mode else []
    if board.HasField("cores_online"):
        parts.append(f"{board.cores_online} cores")
    if board.HasField("clocks_pinned"):
        parts.append("clocks pinned" if board.clocks_pinned else "clocks free")
    if board.changed:
        parts.append("changed meanwhile")
    if board.simulated:
        parts.append("all of it simulated")
    return ", ".join(parts)


def _draw(board: job_pb2.Circumstances) -> str:
    if not board.HasField("mean_power_mw"):
        return ""
    mean = units.simulated(units.watts(round(board.mean_power_mw)), board.simulated)
    return f"{mean} {board.power_source}"


def _heat(board: job_pb2.Circumstances) -> str:
    if not board.HasField("peak_celsius"):
        return ""
    mean, peak = (
        units.simulated(units.celsius(celsius), board.simulated)
        for celsius in (board.mean_celsius, board.peak_celsius)
    )
    return f"{mean} mean, {peak} peak ({board.heat_zone})"


def _events(board: job_pb2.Circumstances) -> str:
    return ", ".join(f"{one.events} × {one.name}" for one in board.over_current if one.events)
