"""What is asked of a TrainSpec in several places: by the controller, the agent and its worker."""

from protos.nanofleet.v1.job_pb2 import TrainSpec


def total_steps(spec: TrainSpec) -> int:
    """Optimizer steps of all stages."""
    return sum(stage.steps for stage in spec.stages)


def dataset_digests(spec: TrainSpec) -> tuple[str, ...]:
    """Each dataset once, in the order of the stages."""
    return tuple(dict.fromkeys(stage.dataset_digest for stage in spec.stages))


def input_digests(spec: TrainSpec) -> tuple[str, ...]:
    """All artifacts that the training reads: the base, then the datasets."""
    return (spec.base_digest, *dataset_digests(spec))


def held_out_samples(samples: int, fraction: float) -> int:
    """How many of ``samples`` are never trained on: at least one where a fraction is asked for.
    Of a dataset of one sample that is all; the worker refuses it."""
    return max(1, round(samples * fraction)) if fraction else 0
