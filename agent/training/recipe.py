"""The recipe is checked before anything is loaded: a wrong one should fail in a second.

The controller validates job files, but a spec can come from elsewhere, and only the device has the
base model at hand to compare with.
"""

import math

from agent.training.failures import TrainingFailure, bad_data, bad_spec
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2
from protos.recipe import held_out_samples

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SCHEDULES = (job_pb2.SCHEDULE_CONSTANT, job_pb2.SCHEDULE_LINEAR, job_pb2.SCHEDULE_COSINE)
# Below two tokens there is nothing to predict.
_SHORTEST_SEQUENCE = 2


def check(spec: job_pb2.TrainSpec, base: BaseModel) -> None:
    """Raises TrainingFailure (BAD_SPEC) that names the first wrong field and what it may be."""
    if not spec.stages:
        raise _wrong("stages", "empty", "one stage or several")
    if spec.accumulation < 1:
        raise _wrong("accumulation", spec.accumulation, "at least 1")
    if not _SHORTEST_SEQUENCE <= spec.sequence_length <= base.context_length:
        allowed = f"from {_SHORTEST_SEQUENCE} to the base model's {base.context_length}"
        raise _wrong("sequence_length", spec.sequence_length, allowed)
    for name in ("gradient_clip", "weight_decay"):
        if not 0 <= getattr(spec, name) < math.inf:
            raise _wrong(name, getattr(spec, name), "0 or more, and finite")
    for number, stage in enumerate(spec.stages, start=1):
        _check_stage(stage, f"stage {number}: " if len(spec.stages) > 1 else "")
    _check_lora(spec.lora, base)


def held_out_split(spec: job_pb2.TrainSpec, number: int, samples: int) -> int:
    """How many of the ``samples`` of a stage (from 0) are held out. Raises TrainingFailure where
    none would be left."""
    fraction = spec.evaluation.held_out_fraction if spec.HasField("evaluation") else 0.0
    held_out = held_out_samples(samples, fraction)
    if held_out >= samples:
        name = spec.stages[number].dataset_name or f"The dataset of stage {number + 1}"
        raise bad_data(
            f"{name} has {samples} sample: none is left to train on when one is held out for "
            "evaluation. Add samples, or leave out evaluation."
        )
    return held_out


def _check_stage(stage: job_pb2.TrainStage, place: str) -> None:
    if stage.steps < 1:
        raise _wrong(f"{place}steps", stage.steps, "at least 1")
    if not 0 < stage.learning_rate < math.inf:
        raise _wrong(f"{place}learning_rate", stage.learning_rate, "above 0 and finite")
    if not 0 <= stage.warmup_fraction <= 1:
        raise _wrong(f"{place}warmup_fraction", stage.warmup_fraction, "from 0 to 1")
    if stage.schedule not in _SCHEDULES:
        raise _wrong(f"{place}schedule", stage.schedule, "constant, linear or cosine")


def _check_lora(lora: job_pb2.LoraSpec, base: BaseModel) -> None:
    if not 1 <= lora.rank <= base.embedding_length:
        raise _wrong("lora.rank", lora.rank, f"from 1 to {base.embedding_length}")
    if not 0 < lora.alpha < math.inf:
        raise _wrong("lora.alpha", lora.alpha, "above 0 and finite")
    if not 0 <= lora.dropout < 1:
        raise _wrong("lora.dropout", lora.dropout, "from 0 to below 1")
    if not lora.targets:
        raise _wrong("lora.targets", "empty", f"one or more of {', '.join(TARGETS)}")
    for target in lora.targets:
        if target not in TARGETS:
            raise _wrong("lora.targets", target, f"one or more of {', '.join(TARGETS)}")


def _wrong(field: str, value: object, allowed: str) -> TrainingFailure:
    return bad_spec(f"The recipe's {field} is {value}; it must be {allowed}. Correct the job file.")
