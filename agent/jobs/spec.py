"""Is this a job that an agent could run at all? Asked before anything is journalled.

Only the shape is judged here. Whether the artifacts are on the device, and whether the recipe fits
its memory, is asked at the same moment by who knows (agent/jobs/desk.py).
"""

import math
import re

from google.protobuf.message import DecodeError

from artifacts import digest
from protos.errors import InvalidRequest
from protos.nanofleet.v1.job_pb2 import SCHEDULE_UNSPECIFIED, JobSpec, TrainSpec

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
TARGETS = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_MAX_NAME = 200
# A file's name has at most so many bytes.
_MAX_DATASET_NAME = 255


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
    if len(spec.name) > _MAX_NAME:
        raise InvalidRequest(f"The name is longer than {_MAX_NAME} characters.", field="name")
    if not spec.HasField("train"):
        raise InvalidRequest(
            "The spec asks for no work that this agent knows.",
            fix="Update the agent, or submit a job of kind train.",
            field="work",
        )
    _check_train(spec.train)
    return spec


def _check_train(train: TrainSpec) -> None:
    digest.parse(train.base_digest, "train.base_digest")
    digest.parse(train.dataset_digest, "train.dataset_digest")
    if len(train.dataset_name) > _MAX_DATASET_NAME or "\0" in train.dataset_name:
        raise InvalidRequest(
            f"dataset_name is longer than {_MAX_DATASET_NAME} characters, or has a NUL in it.",
            field="train.dataset_name",
        )
    for field, value, least, most in (
        ("lora.rank", train.lora.rank, 1, 1024),
        ("sequence_length", train.sequence_length, 2, 1 << 17),
        ("accumulation", train.accumulation, 1, 1 << 16),
        ("steps", train.steps, 1, 1 << 30),
        ("checkpoint_period_s", train.checkpoint_period_s, 1, 1 << 30),
        ("threads", train.threads, 0, 1024),
        ("stored_layers", train.stored_layers, 0, 1024),
        ("lora.alpha", train.lora.alpha, 1e-6, 1e6),
        ("lora.dropout", train.lora.dropout, 0, 0.99),
        ("learning_rate", train.learning_rate, 1e-12, 10),
        ("warmup_fraction", train.warmup_fraction, 0, 1),
        ("gradient_clip", train.gradient_clip, 0, 1e6),
        ("weight_decay", train.weight_decay, 0, 10),
    ):
        if not (math.isfinite(value) and least <= value <= most):
            raise InvalidRequest(
                f"{field} is {value}; it must lie between {least} and {most}.",
                field=f"train.{field}",
            )
    if train.schedule == SCHEDULE_UNSPECIFIED:
        raise InvalidRequest("The schedule is not set.", field="train.schedule")
    unknown = sorted(set(train.lora.targets) - TARGETS)
    if unknown or not train.lora.targets:
        raise InvalidRequest(
            f"lora.targets names {', '.join(unknown) or 'nothing'}.",
            why=f"A target is one of {', '.join(sorted(TARGETS))}.",
            field="train.lora.targets",
        )


def smaller(train: TrainSpec) -> TrainSpec | None:
    """The recipe with less memory and the very same result; None when there is none.

    Stored layers trade memory for time only. Anything else (a shorter sequence, a lower rank)
    would be another job than the one that was asked for.
    """
    if train.stored_layers == 0:
        return None
    less = TrainSpec()
    less.CopyFrom(train)
    less.stored_layers = train.stored_layers // 2
    return less


def shrunk(train: TrainSpec, times: int) -> TrainSpec:
    """The recipe that is run after so many retries for lack of memory."""
    for _ in range(times):
        train = smaller(train) or train
    return train
