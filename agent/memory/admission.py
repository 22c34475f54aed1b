"""Asking the budget for a training run or a served model, and what to ask for instead.

A refusal names settings that would fit now. They are found by making the request smaller step by
step, what costs the least quality first, until the forecast fits.
"""

from collections.abc import Iterator, Sequence

from agent.memory.budget import Budget, Claim
from agent.memory.forecast import inference_forecast, training_forecast
from artifacts.base_model import BaseModel
from protos.nanofleet.v1.job_pb2 import TrainSpec

SHORTEST_SEQUENCE = 64
SHORTEST_CONTEXT = 256
LOWEST_RANK = 4
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def admit_training(
    budget: Budget, base: BaseModel, spec: TrainSpec, held: Sequence[Claim] = (), *, owner: str
) -> Claim:
    """The claim of a training run; raises OutOfMemory with settings that would fit."""

    def claim_of(tried: TrainSpec) -> Claim:
        return Claim(owner, tried.base_digest, training_forecast(base, tried))

    claim = claim_of(spec)
    if not budget.fits(claim, held):
        fitting = next((s for s in smaller_recipes(spec) if budget.fits(claim_of(s), held)), None)
        fix = (
            _recipe_changes(spec, fitting)
            if fitting is not None
            else _no_setting(budget, claim, held)
        )
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
) -> Claim:
    """The claim of a served model; raises OutOfMemory with a context that would fit."""

    def claim_of(context: int) -> Claim:
        return Claim(owner, base_digest, inference_forecast(base, context))

    claim = claim_of(context_length)
    if not budget.fits(claim, held):
        shorter = _halved(context_length, SHORTEST_CONTEXT)
        fitting = next((c for c in shorter if budget.fits(claim_of(c), held)), None)
        fix = (
            f"A context of {fitting} tokens fits." if fitting else _no_setting(budget, claim, held)
        )
        budget.check(claim, held, fix=_free_first(budget, claim, held) + fix)
    return claim


def smaller_recipes(spec: TrainSpec) -> Iterator[TrainSpec]:
    """Ever smaller variants of a recipe: recompute more, then shorter samples, then fewer
    parameters. Each keeps the reductions of those before it."""
    recipe = _copy(spec)
    for layers in _halved(spec.stored_layers, 0):
        recipe.stored_layers = layers
        yield _copy(recipe)
    for tokens in _halved(spec.sequence_length, SHORTEST_SEQUENCE):
        recipe.sequence_length = tokens
        yield _copy(recipe)
    if any(target in ATTENTION for target in spec.lora.targets):
        kept = [target for target in spec.lora.targets if target in ATTENTION]
        if len(kept) < len(spec.lora.targets):
            del recipe.lora.targets[:]
            recipe.lora.targets.extend(kept)
            yield _copy(recipe)
    for rank in _halved(spec.lora.rank, LOWEST_RANK):
        recipe.lora.rank = rank
        yield _copy(recipe)


def _copy(spec: TrainSpec) -> TrainSpec:
    copy = TrainSpec()
    copy.CopyFrom(spec)
    return copy


def _halved(number: int, lowest: int) -> Iterator[int]:
    """Half, a quarter, and so on, down to ``lowest``, which is given, too."""
    while number > lowest:
        number = max(number // 2, lowest)
        yield number


def _recipe_changes(asked: TrainSpec, fitting: TrainSpec) -> str:
    changes = []
    if fitting.stored_layers != asked.stored_layers:
        changes.append(f"stored_layers: {fitting.stored_layers}")
    if fitting.sequence_length != asked.sequence_length:
        changes.append(f"sequence_length: {fitting.sequence_length}")
    if len(fitting.lora.targets) != len(asked.lora.targets):
        changes.append("targets: attention")
    if fitting.lora.rank != asked.lora.rank:
        changes.append(f"rank: {fitting.lora.rank}")
    return f"This fits: {', '.join(changes)}."


def _free_first(budget: Budget, claim: Claim, held: Sequence[Claim]) -> str:
    if held and budget.fits(claim):
        return f"It fits as asked without {' and '.join(other.owner for other in held)}. "
    return ""


def _no_setting(budget: Budget, claim: Claim, held: Sequence[Claim]) -> str:
    if held and budget.fits(claim):
        return ""
    return "No smaller setting fits: use a smaller base model, or free memory on the board."
