"""The tokenised dataset as the trainer sees it: mapped, and in another order in each pass."""

import mmap
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agent.training.seeds import derived
from agent.training.token_file import HEADER, Totals


@dataclass(frozen=True, slots=True)
class TokenSample:
    """An example: ``tokens`` (length), and the places in it that are labelled, rising, never the
    first."""

    tokens: Tensor
    labelled: Tensor


class Samples:
    """The samples of a tokens file (see token_file.py) in the order of their training, less
    ``held_out`` of them, which the seed chooses.

    A sample is a line of the dataset, whatever the base model's chat template makes of it: steps,
    epochs and the held-out share mean the same on every base, the controller can compute them, and
    the answers of one conversation are either all learned or all held out.

    Sample ``number`` of the training is a pure function of seed, stage and number, so that the data
    cursor of a checkpoint is one number. What is held out does not depend on the stage: of two
    stages with one dataset, the second must not be judged by what the first has learnt.
    """

    def __init__(
        self, path: Path, totals: Totals, seed: int, *, stage: int = 0, held_out: int = 0
    ) -> None:
        self.totals = totals
        self._seed = seed
        self._stage = stage
        shuffled = _permutation(totals.samples, derived(seed, "held out"))
        self._held_out = shuffled[:held_out].sort().values
        self._trained = shuffled[held_out:].sort().values
        self._order = torch.empty(0, dtype=torch.int64)
        self._order_pass = -1
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            size = os.fstat(file.fileno()).st_size
        if size != totals.size_bytes:
            raise ValueError(f"{path} is damaged: its size is {size} bytes")
        with warnings.catch_warnings():
            # torch knows no read-only tensors; nothing here writes to them.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            self._tokens = torch.frombuffer(
                mapped, dtype=torch.int32, count=totals.tokens, offset=HEADER.size
            )
            self._starts = torch.frombuffer(
                mapped, dtype=torch.int64, count=totals.examples + 1, offset=totals.starts_offset
            )
            self._firsts = torch.frombuffer(
                mapped, dtype=torch.int64, count=totals.samples + 1, offset=totals.firsts_offset
            )

    def at(self, number: int) -> tuple[TokenSample, ...]:
        """The examples of sample ``number`` of the training, counted from 0 through all passes."""
        passes, place = divmod(number, len(self._trained))
        return self._sample(int(self._order_of(passes)[place]))

    @property
    def trained_count(self) -> int:
        """Samples of one pass."""
        return len(self._trained)

    @property
    def trained_labels(self) -> int:
        """Labelled tokens of one pass."""
        held_out = sum(
            len(example.labelled)
            for number in range(self.held_out_count)
            for example in self.held_out(number)
        )
        return self.totals.labelled - held_out

    @property
    def held_out_count(self) -> int:
        return len(self._held_out)

    def held_out(self, number: int) -> tuple[TokenSample, ...]:
        """The examples of held-out sample ``number``, counted from 0."""
        return self._sample(int(self._held_out[number]))

    def _sample(self, index: int) -> tuple[TokenSample, ...]:
        return tuple(map(self._example, range(*self._firsts[index : index + 2].tolist())))

    def _example(self, index: int) -> TokenSample:
        marked = self._tokens[int(self._starts[index]) : int(self._starts[index + 1])].long()
        is_label = marked < 0
        return TokenSample(
            tokens=torch.where(is_label, ~marked, marked),
            labelled=torch.nonzero(is_label).flatten(),
        )

    def _order_of(self, passes: int) -> Tensor:
        if passes != self._order_pass:
            seed = derived(self._seed, "order", self._stage, passes)
            self._order = self._trained[_permutation(len(self._trained), seed)]
            self._order_pass = passes
        return self._order


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
