"""Checkpoints: everything that a later process needs to go on with bitwise the same losses.

A checkpoint is one safetensors file, ``checkpoints/<work done>.safetensors`` in the job's folder:
adapters, moments, the gradients of an unfinished step, the best adapter and torch's random state as
tensors; the cursor, the thread count, the data type, what the worker chose for its memory, and the
digest of the recipe in its header. The thread
count, because sums of two threads round otherwise than those of one. The data's order needs no
state: it follows from the seed and the cursor.

Each is written durably under a name of its own, then all but the newest two are removed: a file
that turns out damaged costs some minutes, not the job. A digest of the tensors' bytes is in the
header: with a flash card that gives back other bytes than were written, the training would go on
with numbers that are nobody's.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from agent.training import tensor_file
from agent.training.failures import bad_spec
from agent.training.trainer import Progress
from artifacts import durable
from artifacts.persisting import Point
from protos.nanofleet.v1 import job_pb2

# In the job's folder.
FOLDER = "checkpoints"
FORMAT_VERSION = 2
_KEY = "nanofleet"
_SUFFIX = ".safetensors"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What must be the same in all attempts of a job, or the numbers would not be."""

    recipe_digest: str
    threads: int
    data_type: str
    packing: bool
    # Rows of the output head at once.
    chunk_rows: int
    # Where it computes (device.py); checkpoints from before there was a choice are the processor's.
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    settings: Settings
    progress: Progress
    state: Mapping[str, Tensor]


class CheckpointFolder:
    """``problems`` collects what was found unreadable, for the log; ``good`` is the newest file
    that this process has written or opened, and ``good_step`` its step."""

    def __init__(self, folder: Path) -> None:
        self._folder = durable.make_folder(folder)
        self.problems: list[str] = []
        self.good: Path | None = None
        self.good_step = 0
        durable.tidy_up(folder)

    def save(self, checkpoint: Checkpoint) -> int:
        """Returns the size in bytes."""
        state = checkpoint.state
        header = {
            "format_version": FORMAT_VERSION,
            "content": tensor_file.content_digest(state),
            "settings": asdict(checkpoint.settings),
            "progress": checkpoint.progress.to_json(),
        }
        written = self._folder / f"{checkpoint.progress.work:010d}{_SUFFIX}"
        with durable.replacing(written, Point.CHECKPOINT_WRITTEN) as file:
            tensor_file.write(file, state, {_KEY: json.dumps(header)})
        self.good, self.good_step = written, checkpoint.progress.steps
        for useless in self._useless(written):
            durable.remove(useless, Point.CHECKPOINT_DROPPED)
        return written.stat().st_size

    def newest(self, recipe_digest: str) -> Checkpoint | None:
        """The newest readable one; None when there is none. Another recipe's is refused."""
        for path in self._newest_first():
            try:
                checkpoint = _read(path)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self.problems.append(f"The checkpoint {path.name} is not readable: {error}")
                continue
            self.good, self.good_step = path, checkpoint.progress.steps
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
    for field in (
        "stored_layers",
        "memory_budget_bytes",
        "holds_memory",
        "checkpoint_period_s",
        "threads",
    ):
        essential.ClearField(field)
    for stage in essential.stages:
        stage.ClearField("dataset_name")
    return hashlib.sha256(essential.SerializeToString(deterministic=True)).hexdigest()


class _StoredState(Mapping[str, Tensor]):
    """The tensors of a checkpoint file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = cast("Any", safe_open(path, framework="pt"))
        self._names = frozenset(self._file.keys())

    @property
    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(self._file.metadata()[_KEY])
        return header

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read(path: Path) -> Checkpoint:
    state = _StoredState(path)
    header = state.header
    if header["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {header['format_version']}")
    # Earlier agents wrote none.
    if "content" in header and tensor_file.stored_digest(path) != header["content"]:
        raise ValueError("its bytes are not those that were written")
    settings = Settings(**header["settings"])
    return Checkpoint(settings, Progress.from_json(header["progress"]), state)
