"""Who holds the board's memory now: the training job, the served model, or both.

A job is admitted when it would fit the board alone, because it may wait for its turn. When its turn
comes it has precedence over a model that nobody is using: that one is unloaded if both do not fit,
and a request for it is refused with numbers until the job has ended.
"""

from pathlib import Path

from agent.memory.admission import admit_inference, admit_training
from agent.memory.budget import Budget, Claim
from artifacts import base_model
from protos.nanofleet.v1.job_pb2 import TrainSpec

_SERVED = "the served model"


class Residents:
    """``engine``: that which serves. The calls that read a model's header block; they may come from
    any thread."""

    def __init__(self, budget: Budget, engine: str = "llama") -> None:
        self.budget = budget
        self._engine = engine
        self._job: Claim | None = None
        self._model: Claim | None = None

    def admit_job(self, path: Path, train: TrainSpec) -> None:
        """Raises OutOfMemory for a recipe that cannot run on this board at all."""
        admit_training(self.budget, base_model.read(path), train, owner="the job")

    def start_job(self, path: Path, train: TrainSpec, name: str) -> bool:
        """Notes the job that runs now; False when it does not fit beside the served model."""
        owner = f"the training job {name}"
        self._job = admit_training(self.budget, base_model.read(path), train, owner=owner)
        return self._model is None or self.budget.fits(self._job, [self._model])

    def end_job(self) -> None:
        self._job = None

    def start_model(self, path: Path, digest: str, context_length: int) -> None:
        """Notes the model that is served; raises OutOfMemory when it does not fit now."""
        self._model = self.admit_model(path, digest, context_length)

    def admit_model(self, path: Path, digest: str, context_length: int) -> Claim:
        """Its claim beside the job that runs; raises OutOfMemory when it does not fit now."""
        held = [self._job] if self._job else []
        model = base_model.read(path)
        return admit_inference(
            self.budget, model, digest, context_length, held, owner=_SERVED, engine=self._engine
        )

    def end_model(self) -> None:
        self._model = None
