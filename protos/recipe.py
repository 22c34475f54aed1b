"""What is asked of a job's spec in several places: by the controller, the agent and its worker."""

from protos.nanofleet.v1.job_pb2 import JobSpec, TrainSpec


def total_steps(spec: TrainSpec) -> int:
    """Optimizer steps of all stages."""
    return sum(stage.steps for stage in spec.stages)


def dataset_digests(spec: TrainSpec) -> tuple[str, ...]:
    """Each dataset once, in the order of the stages."""
    return tuple(dict.fromkeys(stage.dataset_digest for stage in spec.stages))


def base_digest(spec: JobSpec) -> str:
    return spec.generate.base_digest if spec.HasField("generate") else spec.train.base_digest


def input_digests(spec: JobSpec) -> tuple[str, ...]:
    """All artifacts that the job reads: the base, an adapter, then the datasets."""
    if spec.HasField("train"):
        return (spec.train.base_digest, *dataset_digests(spec.train))
    asked = spec.generate
    adapter = (asked.adapter_digest,) if asked.adapter_digest else ()
    return (asked.base_digest, *adapter, asked.dataset_digest)


def held_out_samples(samples: int, fraction: float) -> int:
    """How many of ``samples`` are never trained on: at least one where a fraction is asked for.
    Of a dataset of one sample that is all; the worker refuses it."""
    return max(1, round(samples * fraction)) if fraction else 0
