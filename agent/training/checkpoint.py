"""Checkpoints: everything that a later process needs to go on with bitwise the same losses.

A checkpoint is one safetensors file, ``checkpoints/<micro-steps>.safetensors`` in the job's folder:
adapters, moments, the gradients of an unfinished step and torch's random state as tensors; the
cursor, the thread count, the data type and the digest of the recipe in its header. The thread
count, because sums of two threads round otherwise than those of one. The data's order needs no
state: it follows from the seed and the cursor.

Each is written durably under a name of its own, then all but the newest two are removed: a file
that turns out damaged costs some minutes, not the job.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from agent.training.failures import bad_spec
from agent.training.trainer import Progress
from artifacts import durable
from protos.nanofleet.v1 import job_pb2

FORMAT_VERSION = 1
_KEY = "nanofleet"
_SUFFIX = ".safetensors"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What must be the same in all attempts of a job, or the numbers would not be."""

    recipe_digest: str
    threads: int
    data_type: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    settings: Settings
    progress: Progress
    state: Mapping[str, Tensor]


class CheckpointFolder:
    """``problems`` collects what was found unreadable, for the log; ``good`` is the newest file
    that this process has written or read whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = durable.make_folder(folder)
        self.problems: list[str] = []
        self.good: Path | None = None
        for stray in folder.glob(".*.tmp"):
            # A power cut while writing left it; nothing refers to it.
            stray.unlink()

    def save(self, checkpoint: Checkpoint) -> int:
        """Returns the size in bytes."""
        header = {
            "format_version": FORMAT_VERSION,
            "recipe_digest": checkpoint.settings.recipe_digest,
            "threads": checkpoint.settings.threads,
            "data_type": checkpoint.settings.data_type,
            "progress": checkpoint.progress.to_json(),
        }
        content = save(dict(checkpoint.state), metadata={_KEY: json.dumps(header)})
        name = f"{checkpoint.progress.micro_steps:010d}{_SUFFIX}"
        written = self._folder / name
        durable.write_bytes(written, content)
        self.good = written
        for useless in self._useless(written):
            durable.remove(useless)
        return len(content)

    def newest(self, recipe_digest: str) -> Checkpoint | None:
        """The newest readable one; None when there is none. Another recipe's is refused."""
        for path in self._newest_first():
            try:
                checkpoint = _read(path)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self.problems.append(f"The checkpoint {path.name} is not readable: {error}")
                continue
            self.good = path
            if checkpoint.settings.recipe_digest != recipe_digest:
                raise bad_spec(
                    "The job's checkpoints were written with another recipe, base or dataset, so "
                    "this attempt cannot go on from them. Submit the changed job under a new id."
                )
            return checkpoint
        return None

    def _useless(self, written: Path) -> list[Path]:
        """What is older than its predecessor, and what is newer than itself: that was unreadable,
        or the training would have gone on from there."""
        files = self._newest_first()
        place = files.index(written)
        return files[:place] + files[place + _KEPT :]

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}"), reverse=True)


def recipe_digest(spec: job_pb2.TrainSpec) -> str:
    """Of all that decides the numbers. Memory and time settings, and names, may change between
    attempts."""
    essential = job_pb2.TrainSpec()
    essential.CopyFrom(spec)
    for field in ("stored_layers", "memory_budget_bytes", "checkpoint_period_s", "threads"):
        essential.ClearField(field)
    for stage in essential.stages:
        stage.ClearField("dataset_name")
    return hashlib.sha256(essential.SerializeToString(deterministic=True)).hexdigest()


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[_KEY])
        if header["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {header['format_version']}")
        settings = Settings(header["recipe_digest"], header["threads"], header["data_type"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(settings, Progress(**header["progress"]), state)
