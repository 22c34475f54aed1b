"""The tokenised dataset as the trainer sees it: mapped, and in another order in each pass."""

import mmap
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agent.training.token_file import HEADER, Totals

# Any fixed odd number: it keeps the orders of (seed, pass) pairs apart.
_PASS_STRIDE = 0x9E3779B97F4A7C15
_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TokenSample:
    """``tokens`` (length), and the places in it that are labelled, rising, never the first."""

    tokens: Tensor
    labelled: Tensor


class Samples:
    """The samples of a tokens file (see token_file.py) in the order of their training.

    Sample ``number`` of the training is a pure function of seed and number, so that the data cursor
    of a checkpoint is one number.
    """

    def __init__(self, path: Path, totals: Totals, seed: int) -> None:
        self.totals = totals
        self._seed = seed
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
                mapped, dtype=torch.int64, count=totals.samples + 1, offset=totals.starts_offset
            )

    def at(self, number: int) -> TokenSample:
        """Sample ``number`` of the training, counted from 0 through all passes."""
        passes, place = divmod(number, self.totals.samples)
        index = int(self._order_of(passes)[place])
        marked = self._tokens[int(self._starts[index]) : int(self._starts[index + 1])].long()
        is_label = marked < 0
        return TokenSample(
            tokens=torch.where(is_label, ~marked, marked),
            labelled=torch.nonzero(is_label).flatten(),
        )

    def labelled_count(self, number: int) -> int:
        return len(self.at(number).labelled)

    def _order_of(self, passes: int) -> Tensor:
        if passes != self._order_pass:
            seed = (self._seed + passes * _PASS_STRIDE) & _SEED_MASK
            generator = torch.Generator().manual_seed(seed)
            self._order = torch.randperm(self.totals.samples, generator=generator)
            self._order_pass = passes
        return self._order
