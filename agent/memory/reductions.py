"""Smaller variants of a recipe, to name one that would fit."""

from collections.abc import Iterator

from protos.nanofleet.v1.job_pb2 import TrainSpec

SHORTEST_SEQUENCE = 64
LOWEST_RANK = 4
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def smaller_recipes(spec: TrainSpec) -> Iterator[TrainSpec]:
    """Ever smaller variants, what costs the least quality first: recompute more, then shorter
    samples, then fewer parameters. Each keeps the reductions of those before it."""
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


def named_changes(asked: TrainSpec, fitting: TrainSpec) -> str:
    """As they are written in a job file: ``sequence_length: 128, rank: 4``."""
    changes = []
    if fitting.stored_layers != asked.stored_layers:
        changes.append(f"stored_layers: {fitting.stored_layers}")
    if fitting.sequence_length != asked.sequence_length:
        changes.append(f"sequence_length: {fitting.sequence_length}")
    if len(fitting.lora.targets) != len(asked.lora.targets):
        changes.append("targets: attention")
    if fitting.lora.rank != asked.lora.rank:
        changes.append(f"rank: {fitting.lora.rank}")
    return ", ".join(changes)


def _halved(number: int, lowest: int) -> Iterator[int]:
    """Half, a quarter, and so on, down to ``lowest``, which is given, too."""
    while number > lowest:
        number = max(number // 2, lowest)
        yield number


def _copy(spec: TrainSpec) -> TrainSpec:
    copy = TrainSpec()
    copy.CopyFrom(spec)
    return copy
