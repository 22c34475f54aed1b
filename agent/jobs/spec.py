"""Is this a job that an agent could run at all? Asked before anything is journalled.

Only the shape is judged here. Whether the artifacts are on the device, and whether the recipe fits
its memory, is asked at the same moment by who knows (agent/jobs/desk.py).
"""

import math
import re

from google.protobuf.message import DecodeError

from agent.jobs import generate_spec
from artifacts import digest
from protos import limits
from protos.errors import InvalidRequest
from protos.nanofleet.v1.job_pb2 import SCHEDULE_UNSPECIFIED, JobSpec, TrainSpec, TrainStage
from protos.recipe import total_steps

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
TARGETS = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_MAX_NAME = 200
# A file's name has at most so many bytes.
_MAX_DATASET_NAME = 255
_MOST_STAGES = 16
_MOST_STEPS = 1 << 30
_LONGEST_LEASE_S = 30 * 86_400


def checked_id(job_id: str) -> str:
    """``job_id`` itself, which is then safe to name a folder."""
    if _ULID.fullmatch(job_id) is None:
        raise InvalidRequest(
            f"{job_id!r} is not a job id.",
            why="A job id is a ULID: 26 digits of Crockford's base 32.",
            field="job_id",
        )
    return job_id


def parsed(data: bytes) -> JobSpec:
    """The spec that the bytes are; raises InvalidRequest that names the first wrong field."""
    try:
        spec = JobSpec.FromString(data)
    except DecodeError:
        raise InvalidRequest("The spec is not a JobSpec.", field="spec") from None
    check(spec)
    return spec


def check(spec: JobSpec) -> None:
    """As ``parsed``; also of a job that an older agent took, and this one has to run."""
    if len(spec.name) > _MAX_NAME:
        raise InvalidRequest(f"The name is longer than {_MAX_NAME} characters.", field="name")
    _check_ranges(("lease_s", spec.lease_s, 0, _LONGEST_LEASE_S), within="")
    if spec.HasField("limits") and (wrong := limits.problem(spec.limits)):
        key, why = wrong
        raise InvalidRequest(f"limits.{key} {why}.", field=f"limits.{key}")
    match spec.WhichOneof("work"):
        case "train":
            _check_train(spec.train)
        case "generate":
            generate_spec.check(spec.generate)
        case _:
            raise InvalidRequest(
                "The spec asks for no work that this agent knows.",
                fix="Update the agent, or submit a job that trains or generates.",
                field="work",
            )


def _check_train(train: TrainSpec) -> None:
    digest.parse(train.base_digest, "train.base_digest")
    if not 1 <= len(train.stages) <= _MOST_STAGES:
        raise InvalidRequest(
            f"The recipe has {len(train.stages)} stages; it must have 1 to {_MOST_STAGES}.",
            field="train.stages",
        )
    for number, stage in enumerate(train.stages):
        _check_stage(stage, f"stages[{number}].")
    if total_steps(train) > _MOST_STEPS:
        raise InvalidRequest(
            f"The stages have {total_steps(train)} steps in all; at most {_MOST_STEPS} can be"
            " counted.",
            field="train.stages",
        )
    if train.HasField("evaluation"):
        _check_ranges(
            ("evaluation.held_out_fraction", train.evaluation.held_out_fraction, 1e-6, 0.5),
            ("evaluation.period_steps", train.evaluation.period_steps, 1, _MOST_STEPS),
        )
    if train.memory_budget_bytes and train.stored_layers:
        raise InvalidRequest(
            "The recipe has a memory budget, and a number of stored layers.",
            why="With a budget, the worker chooses how many layers it can store.",
            fix="Give one of them.",
            field="train.stored_layers",
        )
    _check_ranges(
        ("lora.rank", train.lora.rank, 1, 1024),
        ("sequence_length", train.sequence_length, 2, 1 << 17),
        ("accumulation", train.accumulation, 1, 1 << 16),
        ("checkpoint_period_s", train.checkpoint_period_s, 1, 1 << 30),
        ("threads", train.threads, 0, 1024),
        ("stored_layers", train.stored_layers, 0, 1024),
        ("lora.alpha", train.lora.alpha, 1e-6, 1e6),
        ("lora.dropout", train.lora.dropout, 0, 0.99),
        ("gradient_clip", train.gradient_clip, 0, 1e6),
        ("weight_decay", train.weight_decay, 0, 10),
    )
    unknown = sorted(set(train.lora.targets) - TARGETS)
    if unknown or not train.lora.targets:
        raise InvalidRequest(
            f"lora.targets names {', '.join(unknown) or 'nothing'}.",
            why=f"A target is one of {', '.join(sorted(TARGETS))}.",
            field="train.lora.targets",
        )


def _check_stage(stage: TrainStage, place: str) -> None:
    digest.parse(stage.dataset_digest, f"train.{place}dataset_digest")
    if len(stage.dataset_name) > _MAX_DATASET_NAME or "\0" in stage.dataset_name:
        raise InvalidRequest(
            f"dataset_name is longer than {_MAX_DATASET_NAME} characters, or has a NUL in it.",
            field=f"train.{place}dataset_name",
        )
    _check_ranges(
        (f"{place}steps", stage.steps, 1, _MOST_STEPS),
        (f"{place}learning_rate", stage.learning_rate, 1e-12, 10),
        (f"{place}warmup_fraction", stage.warmup_fraction, 0, 1),
    )
    if stage.schedule == SCHEDULE_UNSPECIFIED:
        raise InvalidRequest("The schedule is not set.", field=f"train.{place}schedule")


def _check_ranges(*ranges: tuple[str, float, float, float], within: str = "train.") -> None:
    for field, value, least, most in ranges:
        if not (math.isfinite(value) and least <= value <= most):
            raise InvalidRequest(
                f"{field} is {value}; it must lie between {least} and {most}.",
                field=f"{within}{field}",
            )


def least_memory(train: TrainSpec) -> TrainSpec:
    """The recipe with the least memory and the very same result, for the retry after OOM.

    Stored layers trade memory for time only. Anything else (a shorter sequence, a lower rank)
    would be another job than the one that was asked for.
    """
    less = TrainSpec()
    less.CopyFrom(train)
    less.stored_layers = 0
    return less
