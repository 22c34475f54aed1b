"""Which of the settings that trade memory for speed a training runs with.

They change no number beyond rounding, so they are the worker's to choose: decoder layers whose
activations are stored (each saves the recomputation of its two widest products), rows
of the output head at once, and packing. With a memory budget the fastest plan whose forecast stays
within it is taken, in this order:

    1  as many stored layers as fit, samples packed as asked, the usual rows of the head
    2  fewer rows of the head, which costs some speed in each micro-step
    3  samples one by one, where the longest is shorter than what they would be packed into

Without a budget the recipe says it all. Pure arithmetic, and the same for the agent that admits a
job and the worker that runs it. The worker knows more (``Facts``): the longest sample can only make
a plan faster, and what data type it finds the agent can only bound (see admission.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.memory.forecast import Forecast, training_forecast
from agent.memory.processor import FLOAT32_BYTES
from agent.memory.reductions import named_changes, smaller_recipes
from agent.memory.settings import HEAD_ROWS, Plan
from agent.memory.torch_build import CPU, TorchBuild
from artifacts.base_model import BaseModel
from protos.errors import OutOfMemory
from protos.nanofleet.v1.job_pb2 import TrainSpec

__all__ = ["Facts", "Plan", "choose", "forecast_of", "least"]

SMALLEST_HEAD_ROWS = 512


@dataclass(frozen=True, slots=True)
class Facts:
    """What is not in the recipe, and mostly only the worker knows; the defaults are the worst case
    of a board without a GPU."""

    # Of the frozen products: 2 for bfloat16, 4 for float32.
    element_bytes: int = FLOAT32_BYTES
    # Tokens of the longest sample; 0: not known, it may be as long as the recipe allows.
    longest: int = 0
    # Whether it computes on a GPU that has its memory from the same board.
    shared_gpu: bool = False
    torch: TorchBuild = CPU


def choose(base: BaseModel, spec: TrainSpec, facts: Facts = Facts()) -> Plan:
    """The fastest plan within the recipe's memory budget.

    Raises OutOfMemory, with the nearest settings that fit, when none is.
    """
    plan = _fitting(base, spec, facts)
    if plan is None:
        raise _refusal(base, spec, facts)
    return plan


def least(base: BaseModel, spec: TrainSpec, facts: Facts = Facts()) -> Plan:
    """The slowest plan, which takes the least memory for the same result: for the retry after a
    forecast that turned out wrong."""
    return list(_fastest_first(base.block_count, spec, facts))[-1]


def peak_bytes(base: BaseModel, spec: TrainSpec, plan: Plan, facts: Facts) -> int:
    return forecast_of(base, spec, plan, facts).peak_bytes


def forecast_of(base: BaseModel, spec: TrainSpec, plan: Plan, facts: Facts) -> Forecast:
    return training_forecast(
        base,
        spec,
        plan,
        facts.element_bytes,
        facts.longest,
        shared_gpu=facts.shared_gpu,
        torch=facts.torch,
    )


def _fitting(base: BaseModel, spec: TrainSpec, facts: Facts) -> Plan | None:
    if not spec.memory_budget_bytes:
        return Plan(min(spec.stored_layers, base.block_count), HEAD_ROWS, spec.packing)
    for plan in _fastest_first(base.block_count, spec, facts):
        if peak_bytes(base, spec, plan, facts) <= spec.memory_budget_bytes:
            return plan
    return None


def _fastest_first(layers: int, spec: TrainSpec, facts: Facts) -> Iterator[Plan]:
    packings = [spec.packing]
    if spec.packing and 0 < facts.longest < spec.sequence_length:
        packings.append(False)
    for packing in packings:
        for stored in range(layers, -1, -1):
            yield Plan(stored, HEAD_ROWS, packing)
        rows = HEAD_ROWS // 2
        while rows >= SMALLEST_HEAD_ROWS:
            yield Plan(0, rows, packing)
            rows //= 2


def _refusal(base: BaseModel, spec: TrainSpec, facts: Facts) -> OutOfMemory:
    slowest = least(base, spec, facts)
    needed_bytes = peak_bytes(base, spec, slowest, facts)
    # Rounded up: the number is typed into the job file.
    enough = f"memory_budget: {-(-needed_bytes // 10_000_000) * 10} MB"
    smaller = next((one for one in smaller_recipes(spec) if _fitting(base, one, facts)), None)
    fix = f"This fits: {enough}"
    if smaller is not None:
        fix += f"; or, within the budget, {named_changes(spec, smaller)}"
    return OutOfMemory(
        f"The recipe does not fit its memory budget of {_mb(spec.memory_budget_bytes)}.",
        why=f"With no stored layer and {slowest.chunk_rows} rows of the head at a time it still "
        f"needs {_mb(needed_bytes)}.",
        fix=f"{fix}.",
    )


def _mb(size_bytes: int) -> str:
    return f"{round(size_bytes / 1_000_000):,} MB"
