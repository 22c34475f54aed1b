"""A dataset: JSONL in one of four shapes, checked on the workstation before it travels.

A bad line costs most when it is found last: after the upload, after the model was loaded, hours
into a run on a board in a field. So ``check`` reads everything and reports all problems at once, as
``persona.jsonl:7: what is wrong. What to do.``, and the device reads with the same code, so that
what was accepted here is accepted there. There the file's own name is a digest: ``name`` is what
messages say instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts import dataset_file, sample_line, samples
from artifacts.dataset_file import Line, compress, unpack
from artifacts.sample_line import Problem
from artifacts.samples import (
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Sample,
    Shape,
    TextSample,
)
from protos.errors import InvalidDataset

__all__ = [
    "AlpacaSample",
    "ChatSample",
    "CompletionSample",
    "DatasetReport",
    "Message",
    "Sample",
    "Shape",
    "TextSample",
    "check",
    "compress",
    "read",
    "unpack",
]

MAX_PROBLEMS = 20
MAX_WARNINGS = 20
# Beyond these, repeats are not looked for: a hundred megabytes are enough for a warning.
_REMEMBERED_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What a sound dataset holds. Each warning is a line of text, ``persona.jsonl:9: …``."""

    shape: Shape
    samples: int
    characters: int
    warnings: tuple[str, ...]


def check(path: Path, *, name: str = "") -> DatasetReport:
    """Reads the whole dataset, plain or zstd; InvalidDataset lists up to 20 problems."""
    check = _Check(name or path.name)
    for line in dataset_file.lines(path, name or path.name):
        check.add(line)
    return check.report()


def read(path: Path, *, name: str = "") -> Iterator[Sample]:
    """The samples in order; InvalidDataset at the first one that ``check`` would refuse."""
    check = _Check(name or path.name)
    for line in dataset_file.lines(path, name or path.name):
        if sample := check.sample(line):
            yield sample
        check.raise_problems()
    check.report()


class _Check:
    """What has been seen of a file so far."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._first: Sample | None = None
        self._samples = 0
        self._characters = 0
        self._problems = _Notes(MAX_PROBLEMS)
        self._warnings = _Notes(MAX_WARNINGS)
        # Hashes, because a million samples shall not be kept; a collision costs a wrong warning.
        self._line_of_text: dict[int, int] = {}

    def add(self, line: Line) -> None:
        if sample := self.sample(line):
            self._warn_of_repeat(sample)

    def sample(self, line: Line) -> Sample | None:
        """The sample in the line; None when it is a problem, which is kept."""
        try:
            sample = sample_line.parse(_decoded(line.content), line.number)
            self._check_shape(sample)
        except Problem as problem:
            self._problems.add(f"{self._file_name}:{line.number}: {problem}")
            return None
        self._samples += 1
        self._characters += samples.characters_of(sample)
        return sample

    def report(self) -> DatasetReport:
        self.raise_problems()
        if self._first is None:
            raise InvalidDataset(
                f"{self._file_name} has no samples.",
                why="The file is empty.",
                fix="Write one JSON object in each line.",
            )
        return DatasetReport(
            samples.shape_of(self._first),
            self._samples,
            self._characters,
            tuple(self._warnings.texts()),
        )

    def raise_problems(self) -> None:
        if found := self._problems.texts():
            if len(found) > 1:
                found.insert(0, f"{self._file_name} has {self._problems.count} problems:")
            raise InvalidDataset("\n".join(found))

    def _check_shape(self, sample: Sample) -> None:
        if self._first is None:
            self._first = sample
        shape, first = samples.shape_of(sample), samples.shape_of(self._first)
        if shape is not first:
            raise Problem(
                f"this sample is {shape.value}, but line {self._first.line} is {first.value}. "
                "Keep one shape in a file: split the file, or rewrite the sample."
            )

    def _warn_of_repeat(self, sample: Sample) -> None:
        key = hash(samples.texts_of(sample))
        before = self._line_of_text.get(key)
        if before is None:
            if len(self._line_of_text) < _REMEMBERED_SAMPLES:
                self._line_of_text[key] = sample.line
        else:
            self._warnings.add(
                f"{self._file_name}:{sample.line}: the same sample as line {before}: "
                "it will weigh twice."
            )


class _Notes:
    """The first few of many texts, and how many there were."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self._kept) < self._limit:
            self._kept.append(text)

    def texts(self) -> list[str]:
        left_out = self.count - len(self._kept)
        return [*self._kept, f"… and {left_out} more."] if left_out else list(self._kept)


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Problem(
            f"byte {error.start + 1} of the line ({content[error.start]:#04x}) is not UTF-8. "
            "Save the file as UTF-8."
        ) from None
