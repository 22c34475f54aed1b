"""What a job or a model will take of the board: its forecast, with what was measured before.

What a worker turns out to take beyond its forecast is remembered for the next one on that base,
also across restarts (calibration.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.memory import torch_build
from agent.memory.admission import admit_inference, admit_training
from agent.memory.budget import Budget, Claim
from agent.memory.calibration import Calibration, Work, recipe_shape
from agent.memory.calibration_file import CalibrationFile
from agent.memory.processor import CPU, least_element_bytes
from agent.memory.torch_build import TorchBuild
from artifacts import base_model
from protos.nanofleet.v1.job_pb2 import JobSpec

SERVED = "the served model"


class Claims:
    """``engine``: that which serves; ``torch``: the build that the workers load; ``shared_gpu``:
    they compute on a GPU that has its memory from the board. Every claim raises OutOfMemory, with
    what would fit, where the board has no room for it (``held``: beside these). For any thread."""

    def __init__(
        self,
        budget: Budget,
        *,
        cpu: Path = CPU,
        engine: str = "llama",
        shared_gpu: bool = False,
        torch: TorchBuild = torch_build.CPU,
        calibration: CalibrationFile | None = None,
    ) -> None:
        self.budget = budget
        self._cpu = cpu
        self._engine = engine
        self._shared_gpu = shared_gpu
        self._torch = torch
        self._file = calibration
        self._calibration = calibration.load() if calibration else Calibration()
        self._kept = self._calibration

    def of_job(self, path: Path, spec: JobSpec) -> Claim:
        """On the base at ``path``, alone on the board."""
        if spec.HasField("generate"):
            asked = spec.generate
            owner = f"the generation job {spec.name}"
            work = self._serving("generation", asked.base_digest, asked.context_length)
            claim = self._inference(path, asked.base_digest, asked.context_length, owner=owner)
            return self._with_known(work, claim)
        base = base_model.read(path)
        claim = admit_training(
            self.budget,
            base,
            spec.train,
            owner=f"the training job {spec.name}",
            least_element_bytes=least_element_bytes(base.embedding_length, self._cpu),
            shared_gpu=self._shared_gpu,
            torch=self._torch,
        )
        shape = recipe_shape(spec.train)
        return self._with_known(Work("training", spec.train.base_digest, shape, "torch"), claim)

    def of_model(
        self, path: Path, digest: str, context_length: int, held: Sequence[Claim] = ()
    ) -> Claim:
        """Of serving the base at ``path``."""
        claim = self._inference(path, digest, context_length, held, owner=SERVED)
        return self._with_known(self._serving("serving", digest, context_length), claim)

    def measured(self, claim: Claim, anonymous_bytes: int) -> Claim:
        """After its worker was seen to take so much. Never below the forecast: the longest sample
        may be yet to come."""
        if claim.work is None:
            return claim
        self._calibration = self._calibration.noted(claim.work, claim.forecast, anonymous_bytes)
        return self._with_known(claim.work, claim)

    def keep(self) -> None:
        """Writes what was learnt, where it is kept and is new."""
        known = self._calibration
        if self._file and known is not self._kept:
            self._file.save(known)
            self._kept = known

    def _serving(self, kind: str, digest: str, context_length: int) -> Work:
        return Work(kind, digest, f"context {context_length}", self._engine)

    def _inference(
        self,
        path: Path,
        digest: str,
        context_length: int,
        held: Sequence[Claim] = (),
        *,
        owner: str,
    ) -> Claim:
        return admit_inference(
            self.budget,
            base_model.read(path),
            digest,
            context_length,
            held,
            owner=owner,
            engine=self._engine,
            torch=self._torch,
        )

    def _with_known(self, work: Work, claim: Claim) -> Claim:
        """With what was measured above the forecast before."""
        known = self._calibration.applied(work, claim.forecast)
        return replace(claim, work=work, forecast=known)
