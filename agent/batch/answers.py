"""The answers so far, in one file of the job's folder: an attempt adds to it, the next one goes on.

    {"engine": "llama", "threads": 3}
    {"line": 7, "answer": 1, "fault": null, "tokens": 33, "took_s": 1.9, "sample": {…}}

First what the first attempt computes with, and so all others do: the last bits of a sum depend on
it, and with them now and then a token. Then a record for each answer, in order, appended, and
synced from time to time. A power cut may take the last of them or leave half of one: from the first
record on that is not whole, or not the one that comes next, everything is cut off and computed
again, to the same bytes. The samples are in the records as they will stand in the dataset, which is
written from them in the end.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from agent.quality.answers import Fault
from artifacts import durable
from artifacts.persisting import Point

Sample: TypeAlias = Mapping[str, object]

NAME = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Answer:
    """``line`` of the dataset; ``number`` among the answers to it, from 1. ``sample`` is None where
    nothing is kept."""

    line: int
    number: int
    fault: Fault | None
    tokens: int
    took_s: float
    sample: Sample | None

    def to_json(self) -> bytes:
        fields = {
            "line": self.line,
            "answer": self.number,
            "fault": self.fault.name if self.fault else None,
            "tokens": self.tokens,
            "took_s": round(self.took_s, 4),
            "sample": self.sample,
        }
        return encoded(fields)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What decides the last bits, beside the spec."""

    engine: str
    threads: int

    def to_json(self) -> bytes:
        return encoded({"engine": self.engine, "threads": self.threads})


class Answers:
    """The file: first what it holds is read, in order, then it is written behind that.

    ``wished`` is taken by the first attempt; ``arithmetic`` is what that took.
    """

    def __init__(self, folder: Path, wished: Arithmetic) -> None:
        path = folder / NAME
        if not path.exists():
            durable.write_bytes(path, wished.to_json(), Point.ANSWERS_BEGUN)
        self._file: BinaryIO = path.open("r+b")
        self._is_read = False
        self.arithmetic = Arithmetic(**json.loads(self._file.readline()))

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def size_bytes(self) -> int:
        return self._file.tell()

    def recorded(self, line: int, number: int) -> Answer | None:
        """The record of the next answer. None: it is not there, and nothing after it is left."""
        if self._is_read:
            return None
        end = self._file.tell()
        found = _parsed(self._file.readline())
        if found is not None and (found.line, found.number) == (line, number):
            return found
        self._file.seek(end)
        self._file.truncate()
        self._is_read = True
        return None

    def add(self, answer: Answer) -> None:
        self._file.write(answer.to_json())
        self._file.flush()

    def sync(self) -> None:
        """What was added is on the disk when this returns."""
        with Point.ANSWERS_SYNCED:
            os.fsync(self._file.fileno())

    def samples(self) -> Iterator[Sample]:
        """Of all records, in order, once they are complete."""
        self._file.seek(0)
        self._file.readline()
        for content in self._file:
            found = _parsed(content)
            if found is not None and found.sample is not None:
                yield found.sample


def encoded(value: Mapping[str, object]) -> bytes:
    """A line of JSONL; equal for equal values."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _parsed(content: bytes) -> Answer | None:
    """None for what is no whole record."""
    if not content.endswith(b"\n"):
        return None
    try:
        fields = json.loads(content)
        return Answer(
            line=fields["line"],
            number=fields["answer"],
            fault=Fault[fields["fault"]] if fields["fault"] else None,
            tokens=fields["tokens"],
            took_s=fields["took_s"],
            sample=fields["sample"],
        )
    except (ValueError, KeyError, TypeError):
        return None
