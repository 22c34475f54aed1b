"""The learning rate over the steps: a linear rise, then constant, linear or cosine to zero."""

import math

from protos.nanofleet.v1 import job_pb2


def learning_rate(spec: job_pb2.TrainSpec, step: int) -> float:
    """The rate of optimizer step ``step``, counted from 0."""
    warmup = math.ceil(spec.warmup_fraction * spec.steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, spec.steps - warmup)
    return spec.learning_rate * _share(spec.schedule, done)


def _share(schedule: job_pb2.Schedule.ValueType, done: float) -> float:
    if schedule == job_pb2.SCHEDULE_LINEAR:
        return 1 - done
    if schedule == job_pb2.SCHEDULE_COSINE:
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
