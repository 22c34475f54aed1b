"""A Hugging Face checkpoint as one GGUF file: weights, tokenizer and chat template together.

First a plan, from headers alone: every tensor that the family has, with its name, shape and type,
checked against what is there. Then the tensors stream through in slices of rows, so the peak is a
few slices and the vocabulary, not the 1.2 GB that the embedding of a small model is in float32.

The same folder gives the same bytes, so the file's digest names the model in its type. The digest
of the original weights, which is taken as they stream, names it in all types (source.py).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from artifacts import hub_cache
from artifacts.base_model import SOURCE_KEY
from artifacts.convert import language_model
from artifacts.convert.ahead import ahead
from artifacts.convert.checkpoint import StoredTensor
from artifacts.convert.config import ModelConfig, read_config
from artifacts.convert.families import Rows, TensorSpec
from artifacts.convert.gguf_file import LateDigest, OutputTensor, Slice, write
from artifacts.convert.hyperparameters import add_hyperparameters, rope_factors
from artifacts.convert.source import SourceDigest
from artifacts.convert.tokenizer import add_tokenizer
from artifacts.digest import Digest
from protos.errors import InvalidRequest

# Of float32, in a slice of rows; the quantiser holds about six such arrays.
SLICE_BYTES = 2 << 20


class FileType(Enum):
    """How the matrices are stored. Vectors (norms, biases) always stay float32.

    QINT8 is optimum-quanto's and for training only; llama.cpp has no such type.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    QINT8 = "qint8"


_STORAGE = {
    FileType.F32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    FileType.F16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    FileType.BF16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    FileType.Q8_0: (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    FileType.Q4_0: (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    FileType.QINT8: (gguf.GGMLQuantizationType.I8, gguf.LlamaFileType.GUESSED),
}


@dataclass(frozen=True, slots=True)
class Progress:
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What the export gate measured (proof.py): the largest difference of a logit in the exact
    excerpt, what the type costs, and in how many texts all tokens were equal."""

    logit_difference: float
    divergence_nats: float
    agreement: float
    texts: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written. ``warnings`` are sentences about what differs from the original; ``proof``
    is None where the file was not proved."""

    architecture: str
    parameters: int
    size_bytes: int
    warnings: tuple[str, ...]
    proof: Proof | None = None


def convert_model(
    folder: Path,
    target: Path,
    file_type: FileType = FileType.Q8_0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    check: Callable[[Path], None] = lambda complete: None,
) -> Conversion:
    """Writes ``target`` durably, or raises and leaves it as it was.

    ``check`` gets the complete file before it takes its name. InvalidRequest names what the format
    cannot represent, NotFound what the folder lacks, DiskFull comes before the first byte.
    """
    if file_type is FileType.QINT8:
        _require_quanto()
    config = read_config(folder)
    plan = _plan(folder, config, language_model.read_tensors(folder))
    kind, stored_as = _STORAGE[file_type]
    digest = SourceDigest(config)
    tensors = [tensor for spec, source in plan for tensor in _outputs(spec, source, kind, digest)]
    if factors := rope_factors(config):
        tensors.insert(0, factors)

    header = gguf.GGUFWriter(None, config.family.architecture)
    header.add_type(gguf.GGUFType.MODEL)
    header.add_name(hub_cache.name_of(folder.resolve()))
    header.add_file_type(stored_as)
    header.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_hyperparameters(header, config)
    try:
        warnings = add_tokenizer(header, folder, config.size.vocabulary)
    except UnicodeError as error:
        raise InvalidRequest(f"{folder}: the tokenizer is not Unicode.", why=f"{error}.") from error

    if unseen := language_model.left_out(folder):
        size_mb = sum(tensor.size_bytes for tensor in unseen.values()) / 1e6
        warnings.append(
            "The model sees pictures, too; what only they need is left out "
            f"({len(unseen)} tensors, {size_mb:,.0f} MB)."
        )

    total_bytes, written_bytes = sum(tensor.size_bytes for tensor in tensors), 0

    def on_written(count: int) -> None:
        nonlocal written_bytes
        written_bytes += count
        on_progress(Progress(written_bytes, total_bytes))

    write(target, header, tensors, on_written, LateDigest(SOURCE_KEY, digest.digest), check)
    return Conversion(
        architecture=config.family.architecture,
        parameters=sum(math.prod(spec.shape) for spec, _ in plan),
        size_bytes=target.stat().st_size,
        warnings=tuple(warnings),
    )


def source_digest(folder: Path) -> Digest:
    """Of the model in a Hugging Face folder: what a file that is made of it says. Reads it all."""
    config = read_config(folder)
    digest = SourceDigest(config)
    for spec, source in _plan(folder, config, language_model.read_tensors(folder)):
        for _ in digest.reading(spec, _rows(spec, source)):
            pass
    return digest.digest()


def _plan(
    folder: Path, config: ModelConfig, stored: dict[str, StoredTensor]
) -> list[tuple[TensorSpec, StoredTensor]]:
    tied = "lm_head.weight" not in stored if config.tied is None else config.tied
    specs = list(config.family.tensors(config.size, head=not tied))
    known = {spec.source for spec in specs}
    if tied:
        known.add("lm_head.weight")  # a copy of the embedding, which llama.cpp uses itself
    # Old checkpoints of Llama carry the rotary frequencies, which follow from the configuration.
    extra = [name for name in sorted(stored.keys() - known) if not name.endswith(".inv_freq")]
    if extra:
        raise InvalidRequest(
            f"{folder}: the tensor {extra[0]} has no place in {config.family.architecture}.",
            why=f"{len(extra)} such tensors would be lost.",
            reason="UNSUPPORTED_FEATURE",
        )
    plan = []
    for spec in specs:
        source = stored.get(spec.source)
        if source is None:
            raise InvalidRequest(f"{folder}: the tensor {spec.source} is missing.")
        if source.shape != spec.shape:
            raise InvalidRequest(
                f"{folder}: {spec.source} has shape {source.shape}.",
                why=f"config.json means {spec.shape}.",
            )
        plan.append((spec, source))
    return plan


def _outputs(
    spec: TensorSpec,
    source: StoredTensor,
    kind: gguf.GGMLQuantizationType,
    digest: SourceDigest,
) -> tuple[OutputTensor, ...]:
    if len(spec.shape) == 1:
        kind = gguf.GGMLQuantizationType.F32
    if kind is gguf.GGMLQuantizationType.I8:
        from artifacts.convert import qint8

        return qint8.tensors(spec, source.dtype, _slices(spec, source, digest))
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if spec.shape[-1] % block:
        raise InvalidRequest(
            f"{spec.source} has rows of {spec.shape[-1]} numbers.",
            why=f"{kind.name} stores blocks of {block}.",
            fix="Convert to f16, bf16 or f32.",
        )

    def slices() -> Iterator[Slice]:
        for rows in _slices(spec, source, digest):
            yield _stored(spec, rows, kind)

    return (OutputTensor(spec.target, spec.shape, kind, slices),)


def _slices(spec: TensorSpec, source: StoredTensor, digest: SourceDigest) -> Iterator[Rows]:
    """The tensor's numbers as the file has them, a few rows at a time."""
    for rows in ahead(digest.reading(spec, _rows(spec, source))):
        yield spec.apply(rows)


def _rows(spec: TensorSpec, source: StoredTensor) -> Iterator[Rows]:
    """The tensor's numbers as the checkpoint has them, as many rows as make a slice."""
    row_bytes = 4 * math.prod(spec.shape[1:])
    step = max(1, SLICE_BYTES // row_bytes // spec.rows_together) * spec.rows_together
    for start in range(0, spec.shape[0], step):
        rows = source.rows(start, min(start + step, spec.shape[0]))
        if not np.isfinite(rows).all():
            raise InvalidRequest(f"{source.path}: {source.name} holds NaN or infinity.")
        yield rows


def _require_quanto() -> None:
    try:
        from artifacts.convert import qint8  # noqa: F401
    except ImportError as error:
        raise InvalidRequest(
            "A conversion to qint8 needs optimum-quanto.",
            why=f"{error}.",
            fix="Install it: pip install 'nanofleet[qint8]', or convert to q8_0.",
            reason="UNSUPPORTED_FEATURE",
            field="file_type",
        ) from None


def _stored(spec: TensorSpec, rows: Rows, kind: gguf.GGMLQuantizationType) -> Slice:
    if kind is gguf.GGMLQuantizationType.F16 and np.abs(rows).max() > np.finfo(np.float16).max:
        raise InvalidRequest(
            f"{spec.source} has numbers that float16 does not reach.", fix="Convert to bf16 or f32."
        )
    quantised: Slice = quantize(rows, kind)
    return quantised
