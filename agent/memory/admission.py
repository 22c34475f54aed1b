"""Asking the budget for a training run or a served model, and what to ask for instead.

A refusal names settings that would fit now. They are found by making the request smaller step by
step, what costs the least quality first, until the forecast fits.
"""

from collections.abc import Iterator, Sequence

from agent.memory.budget import Budget, Claim, shared_bytes
from agent.memory.forecast import Forecast, inference_forecast
from agent.memory.plan import Facts, choose, forecast_of
from agent.memory.processor import FLOAT32_BYTES
from agent.memory.reductions import named_changes, smaller_recipes
from agent.memory.torch_build import CPU, TorchBuild
from artifacts.base_model import BaseModel
from protos.errors import OutOfMemory
from protos.nanofleet.v1.job_pb2 import TrainSpec

SHORTEST_CONTEXT = 256


def admit_training(
    budget: Budget,
    base: BaseModel,
    spec: TrainSpec,
    held: Sequence[Claim] = (),
    *,
    owner: str,
    least_element_bytes: int = FLOAT32_BYTES,
    shared_gpu: bool = False,
    torch: TorchBuild = CPU,
) -> Claim:
    """The claim of a training run; raises OutOfMemory with settings that would fit.

    ``least_element_bytes``: of the smallest data type that the worker may choose. ``shared_gpu``:
    it will compute on a GPU that has its memory from the board. ``torch``: the worker's.
    """
    possible = [
        Facts(element_bytes, shared_gpu=shared_gpu, torch=torch)
        for element_bytes in dict.fromkeys((FLOAT32_BYTES, least_element_bytes))
    ]

    def claim_of(tried: TrainSpec) -> Claim:
        return Claim(owner, tried.base_digest, _most(base, tried, possible))

    claim = claim_of(spec)
    if not budget.fits(claim, held):
        fix = _no_setting(budget, claim, held)
        room_bytes = budget.free_bytes(held) + shared_bytes(claim, held)
        if spec.memory_budget_bytes and (lower := _lower_budget(base, spec, room_bytes, possible)):
            fix = f"This fits: memory_budget: {lower // 1_000_000} MB."
        elif not spec.memory_budget_bytes:
            smaller = (one for one in smaller_recipes(spec) if budget.fits(claim_of(one), held))
            if (fitting := next(smaller, None)) is not None:
                fix = f"This fits: {named_changes(spec, fitting)}."
        budget.check(claim, held, fix=_free_first(budget, claim, held) + fix)
    return claim


def admit_inference(
    budget: Budget,
    base: BaseModel,
    base_digest: str,
    context_length: int,
    held: Sequence[Claim] = (),
    *,
    owner: str,
    engine: str = "llama",
    torch: TorchBuild = CPU,
) -> Claim:
    """The claim of a served model; raises OutOfMemory with a context that would fit."""

    def claim_of(context: int) -> Claim:
        return Claim(owner, base_digest, inference_forecast(base, context, engine, torch))

    claim = claim_of(context_length)
    if not budget.fits(claim, held):
        shorter = _halved(context_length, SHORTEST_CONTEXT)
        fitting = next((c for c in shorter if budget.fits(claim_of(c), held)), None)
        fix = (
            f"A context of {fitting} tokens fits." if fitting else _no_setting(budget, claim, held)
        )
        budget.check(claim, held, fix=_free_first(budget, claim, held) + fix)
    return claim


def _most(base: BaseModel, spec: TrainSpec, possible: Sequence[Facts]) -> Forecast:
    """What the worker takes with those ``possible`` facts with which it takes most. A memory budget
    is refused only when none of them could keep it; the settings that are named then fit any."""
    found, refusals = [], []
    for facts in possible:
        try:
            plan = choose(base, spec, facts)
        except OutOfMemory as refusal:
            refusals.append(refusal)
        else:
            found.append(forecast_of(base, spec, plan, facts))
    if not found:
        raise refusals[0]
    return max(found, key=lambda forecast: forecast.peak_bytes)


def _lower_budget(
    base: BaseModel, spec: TrainSpec, room_bytes: int, possible: Sequence[Facts]
) -> int | None:
    """What is free, in whole MB, when some plan fits it."""
    lower = TrainSpec()
    lower.CopyFrom(spec)
    lower.memory_budget_bytes = max(1, room_bytes // 1_000_000 * 1_000_000)
    try:
        _most(base, lower, possible)
    except OutOfMemory:
        return None
    return lower.memory_budget_bytes


def _halved(number: int, lowest: int) -> Iterator[int]:
    """Half, a quarter, and so on, down to ``lowest``, which is given, too."""
    while number > lowest:
        number = max(number // 2, lowest)
        yield number


def _free_first(budget: Budget, claim: Claim, held: Sequence[Claim]) -> str:
    if held and budget.fits(claim):
        return f"It fits as asked without {' and '.join(other.owner for other in held)}. "
    return ""


def _no_setting(budget: Budget, claim: Claim, held: Sequence[Claim]) -> str:
    if held and budget.fits(claim):
        return ""
    return "No smaller setting fits: use a smaller base model, or free memory on the board."
