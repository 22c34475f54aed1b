"""The export gate: a file proves itself before it takes its name.

Three questions, each with its own bound, about the very bytes that were written:

1. Does llama.cpp compute what the checkpoint's configuration means? On an excerpt of the first
   layers in float32 (written.py), where only rounding of float32 is left: a logit may differ by
   5e-3. A wrong rope base is smaller than the noise of eight bits; here it is not.
2. What does the type cost? The whole file in llama.cpp against the original weights: the
   Kullback-Leibler divergence of the next token, and whether the likeliest token stays.
3. Does llama.cpp split text as the tokenizers library does, in every script of check_text.py?

The reference reads the original weights a few rows at a time (forward.py), so the memory is that of
activations, llama.cpp maps the file, and a 1B model is proved on a board of 4 GB.

A config.json that is wrong itself, about a rope base for example, is the truth to all of us: only
what contradicts itself is seen (config.py).
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from artifacts import base_model, headroom
from artifacts.base_model import BaseModel
from artifacts.convert import language_model, llama
from artifacts.convert.check_text import CHECK_TEXTS
from artifacts.convert.checkpoint import StoredTensor
from artifacts.convert.config import GEMMA_PATTERN, ModelConfig, read_config
from artifacts.convert.families import GEMMA3, Rows, TensorSpec
from artifacts.convert.forward import Forward, Weights
from artifacts.convert.model import FileType, Progress, Proof
from artifacts.convert.written import Written, smaller, write_excerpt
from protos.errors import InvalidRequest

# Of a logit, where logits spread over one; where they spread wider, of that spread.
EXACT = 5e-3
# Of an excerpt: rows of the vocabulary, and tokens beyond the sliding window or in all.
_ROWS = 1024
_BEYOND_WINDOW = 64
_TOKENS, _MOST_TOKENS = 256, 1152
_EMBEDDING = "token_embd.weight"
# Of the whole file.
_COMPARED = 32
# Of the positions whose likeliest token leads by more than the type's own noise.
_AGREEMENT = 0.95
_DEVIATIONS = 4


@dataclass(frozen=True, slots=True)
class _Cost:
    """In nats: what a type costs a model in miniature at most, and what is refused. Between them a
    warning: how much a trained model loses by a type is a property of the model."""

    expected: float
    refused: float


_COSTS = {
    FileType.F32: _Cost(1e-6, 1e-4),
    FileType.F16: _Cost(1e-5, 1e-3),
    FileType.BF16: _Cost(1e-4, 1e-2),
    FileType.Q8_0: _Cost(1e-4, 1e-2),
    FileType.QINT8: _Cost(1e-4, 1e-2),
    FileType.Q4_0: _Cost(2e-2, 5e-1),
}


class _Original:
    """The weights of the folder."""

    def __init__(self, stored: dict[str, StoredTensor]) -> None:
        self._stored = stored

    def rows(self, spec: TensorSpec, first: int, last: int) -> Rows:
        return self._stored[spec.source].rows(first, last)


class _Watched:
    """Weights whose reading is the progress, counted in numbers of four bytes."""

    def __init__(self, original: Weights, total: int, on_progress: Callable[[Progress], None]):
        self._original = original
        self._read_bytes, self._total_bytes = 0, 4 * total
        self._on_progress = on_progress

    def rows(self, spec: TensorSpec, first: int, last: int) -> Rows:
        rows = self._original.rows(spec, first, last)
        self._read_bytes = min(self._read_bytes + rows.nbytes, self._total_bytes)
        self._on_progress(Progress(self._read_bytes, self._total_bytes))
        return rows


def prove(
    folder: Path,
    file: Path,
    file_type: FileType,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Proof, tuple[str, ...]]:
    """What was measured, and warnings. Raises InvalidRequest, with the figures, for a ``file`` that
    is not the model of ``folder``."""
    config, base = read_config(folder), base_model.read(file)
    stored = language_model.read_tensors(folder)
    tied = "output.weight" not in base.tensors
    _check_tokens(folder, file)
    excerpt = dataclasses.replace(
        config, size=smaller(config.size, GEMMA_PATTERN if config.family is GEMMA3 else 2, _ROWS)
    )
    difference = _check_exact(excerpt, base, tied=tied)
    read = base.parameter_count - (0 if tied else math.prod(base.tensors[_EMBEDDING].shape))
    original = _Watched(_Original(stored), read, on_progress)
    nats, agreement, warnings = _check_cost(config, base, file_type, original, tied=tied)
    return Proof(difference, nats, agreement, len(CHECK_TEXTS)), warnings


def _check_tokens(folder: Path, file: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, found in zip(CHECK_TEXTS, llama.tokens(file, CHECK_TEXTS), strict=True):
        expected = tokenizer.encode(text).ids
        if found != expected:
            shared = min(len(found), len(expected))
            at = next((n for n in range(shared) if found[n] != expected[n]), shared)
            raise _not_proved(
                f"{folder}: llama.cpp splits a text otherwise than its tokenizer.",
                f"{text!r} becomes {len(found)} tokens instead of {len(expected)}, the first "
                f"other one at {at}: {found[at : at + 3]} instead of {expected[at : at + 3]}.",
                "A tokenizer that was made from a SentencePiece model, or byte-level BPE, has the "
                "same tokens in both.",
            )


def _check_exact(config: ModelConfig, base: BaseModel, *, tied: bool) -> float:
    """The largest difference of a logit."""
    count = _TOKENS if config.sliding_window is None else config.sliding_window + _BEYOND_WINDOW
    count = min(count, config.context_length, _MOST_TOKENS)
    chance = np.random.default_rng(0)
    prompt = [int(token) for token in chance.integers(0, config.size.vocabulary, count)]
    parent = base.path.parent
    with headroom.naming_disk_faults(parent), tempfile.TemporaryFile(dir=parent) as scratch:
        write_excerpt(scratch, base, config.size, tied=tied)
        scratch.flush()
        found = llama.logits(Path(f"/proc/self/fd/{scratch.fileno()}"), prompt)
    expected = Forward(config, Written(base), tied=tied).logits(prompt)
    difference = float(np.abs(found - expected).max())
    bound = EXACT * max(1.0, float(expected.std()))
    if not difference <= bound:
        raise _not_proved(
            "llama.cpp does not compute with this file what its configuration says.",
            f"In the first {config.size.layers} layers, after {count} tokens, a logit differs by "
            f"{difference:.2g}; {bound:.2g} is allowed.",
            "Report it with the model's config.json; this is a fault of the converter.",
        )
    return difference


def _check_cost(
    config: ModelConfig, base: BaseModel, file_type: FileType, original: Weights, *, tied: bool
) -> tuple[float, float, tuple[str, ...]]:
    """The divergence in nats, the agreement of the likeliest token, and warnings."""
    prompt = _prompt(base.path, config)
    expected = Forward(config, original, tied=tied).logits(prompt)
    if file_type is FileType.QINT8:  # llama.cpp has no such type
        found = Forward(config, Written(base), tied=tied).logits(prompt)
    else:
        found = llama.logits(base.path, prompt)
    nats, cost = _divergence(expected, found), _COSTS[file_type]
    best = np.partition(expected, -2, axis=-1)[:, -2:]
    margin = _DEVIATIONS * math.sqrt(4 * max(nats, cost.expected))
    decided = best[:, 1] - best[:, 0] > margin
    same = (expected.argmax(-1) == found.argmax(-1))[decided]
    agreement = float(same.mean()) if decided.any() else 1.0
    figures = (
        f"The next token's distribution moves by {nats:.2g} nats, and the likeliest token stays at "
        f"{same.sum()} of the {len(same)} positions where it leads clearly."
    )
    if not nats <= cost.refused or agreement < _AGREEMENT:
        raise _not_proved(
            f"As {file_type.value} this model is not the original any more.",
            f"{figures} Refused is more than {cost.refused:g} nats, or less than {_AGREEMENT:.0%}.",
            "Import it as f16 or bf16, which keep more.",
        )
    if nats <= cost.expected:
        return nats, agreement, ()
    warning = (
        f"{file_type.value} costs this model more than {cost.expected:g} nats. {figures} "
        "f16 and bf16 keep more."
    )
    return nats, agreement, (warning,)


def _prompt(file: Path, config: ModelConfig) -> list[int]:
    """The beginning of the check texts."""
    tokens = [token for found in llama.tokens(file, CHECK_TEXTS) for token in found]
    return tokens[: min(_COMPARED, config.context_length)]


def _divergence(expected: Rows, found: Rows) -> float:
    """The mean Kullback-Leibler divergence over positions; one at a time, as rows are long."""
    values = []
    for one, other in zip(expected.astype(np.float64), found, strict=True):
        p, q = _log_shares(one), _log_shares(other.astype(np.float64))
        values.append(float((np.exp(p) * (p - q)).sum()))
    return float(np.mean(values))


def _log_shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = values - values.max()
    shares: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return shares


def _not_proved(what: str, why: str, fix: str) -> InvalidRequest:
    return InvalidRequest(what, why=why, fix=fix, reason="CONVERSION_NOT_PROVED")
