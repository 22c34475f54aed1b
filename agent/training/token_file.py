"""The tokens of a dataset in one file, which the trainer maps instead of holding it.

    bytes 0-7      "nftokens"
    8-39           key: SHA-256 of what the tokens were made from (see ``key_of``)
    40-71          samples, examples, tokens, labelled tokens: four 64-bit numbers
    72-            a 32-bit number for each token: its id t, or ~t (which is -t - 1) if labelled
    …              64-bit start of each example, counted in tokens, and the end of the last one
    …              64-bit number of each sample's first example, and the number of examples

A sample is a line of the dataset, and mostly one example; examples.py says when it is several.

All little-endian, padded to 8 bytes before the starts. Written by the short-lived process that has
the tokenizer, and kept beside the checkpoints: an attempt that resumes finds it again by its key.
"""

import hashlib
import itertools
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from artifacts import durable
from artifacts.persisting import Point

MAGIC = b"nftokens"
HEADER = struct.Struct("<8s32sQQQQ")
_VERSION = 3
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Example:
    """``labelled`` says of each token whether the model learns to produce it."""

    tokens: list[int]
    labelled: list[bool]


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one pass over the dataset."""

    samples: int
    examples: int
    tokens: int
    labelled: int

    @property
    def starts_offset(self) -> int:
        end = HEADER.size + 4 * self.tokens
        return end + -end % _ALIGNMENT

    @property
    def firsts_offset(self) -> int:
        return self.starts_offset + 8 * (self.examples + 1)

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self.firsts_offset + 8 * (self.samples + 1)


def key_of(base_digest: str, dataset_digest: str, sequence_length: int) -> bytes:
    """Equal keys, equal files."""
    text = f"{_VERSION} {base_digest} {dataset_digest} {sequence_length}"
    return hashlib.sha256(text.encode()).digest()


def write(path: Path, key: bytes, samples: Iterable[Sequence[Example]]) -> Totals:
    """Writes the examples of each sample as they come, durably."""
    starts, firsts = array("Q", [0]), array("Q", [0])
    labelled = 0
    with durable.replacing(path, Point.TOKENS_WRITTEN) as file:
        file.write(bytes(HEADER.size))
        for examples in samples:
            for example in examples:
                pairs = zip(example.tokens, example.labelled, strict=True)
                numbers = array("i", [~token if is_label else token for token, is_label in pairs])
                file.write(numbers.tobytes())
                starts.append(starts[-1] + len(numbers))
                labelled += sum(example.labelled)
            firsts.append(len(starts) - 1)
        totals = Totals(len(firsts) - 1, len(starts) - 1, starts[-1], labelled)
        file.write(bytes(totals.starts_offset - file.tell()))
        file.write(starts.tobytes() + firsts.tobytes())
        file.seek(0)
        file.write(HEADER.pack(MAGIC, key, *astuple(totals)))
    return totals


def read_totals(path: Path, key: bytes) -> Totals | None:
    """What the file holds; None when it is not there, cut off, or made from something else: then
    it is to be made anew."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            size_bytes = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if len(head) < HEADER.size:
        return None
    magic, found_key, *counts = HEADER.unpack(head)
    if magic != MAGIC or found_key != key:
        return None
    totals = Totals(*counts)
    return totals if size_bytes == totals.size_bytes else None


def longest(path: Path, totals: Totals) -> int:
    """Tokens of its longest example."""
    starts = array("q")
    with path.open("rb") as file:
        file.seek(totals.starts_offset)
        starts.fromfile(file, totals.examples + 1)
    return max((after - before for before, after in itertools.pairwise(starts)), default=0)
