"""The learning rate over the steps: a linear rise, then constant, linear or cosine to zero."""

import math

from protos.nanofleet.v1 import job_pb2


def learning_rate(stage: job_pb2.TrainStage, step: int) -> float:
    """The rate of the stage's optimizer step ``step``, counted from 0."""
    warmup = math.ceil(stage.warmup_fraction * stage.steps)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, stage.steps - warmup)
    return stage.learning_rate * _share(stage.schedule, done)


def _share(schedule: job_pb2.Schedule.ValueType, done: float) -> float:
    if schedule == job_pb2.SCHEDULE_LINEAR:
        return 1 - done
    if schedule == job_pb2.SCHEDULE_COSINE:
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0
