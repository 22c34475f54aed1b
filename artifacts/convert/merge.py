"""A LoRA adapter merged into the original weights: a Hugging Face folder that needs no PEFT.

W' = W + scale B A (Hu et al., 2021, arXiv:2106.09685, section 4.1), in float32, rounded once to
bfloat16. Slices of rows stream from one file into the next, so the peak is a slice and the adapter,
whatever the size of the model.

Never into a quantised base: what an adapter of this size adds is mostly less than a step of eight
bits, so that rounding back would drop or distort it.
"""

import contextlib
import json
import math
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from artifacts import adapter as archive
from artifacts import digest as digests
from artifacts import durable, gguf_header, headroom
from artifacts.convert import gguf_file, language_model, peft
from artifacts.convert.checkpoint import INDEX_FILE, StoredTensor, read_checkpoint, read_tensors
from artifacts.convert.config import read_config
from artifacts.convert.json_object import JsonObject
from artifacts.convert.model import SLICE_BYTES, Conversion, Progress, source_digest
from artifacts.convert.tokenizer import add_tokenizer
from artifacts.manifest import AdapterManifest
from artifacts.persisting import Point
from protos.errors import AlreadyExists, InvalidRequest, NotFound, WrongBase

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_BF16_BYTES = 2
_HEADER_LENGTH = struct.Struct("<Q")
# What belongs to the model besides weights: configurations, tokenizer, chat template.
_COPIED = (".json", ".jinja", ".model", ".txt")

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Change:
    """Of one matrix: ``scale`` B A, with A (rank, columns) and B (rows, rank)."""

    a: Matrix
    b: Matrix
    scale: float


def merge_adapter(
    adapter: Path,
    base: Path,
    target: Path,
    *,
    replace: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Conversion:
    """Makes the folder ``target``, whole or not at all, from the Hugging Face folder ``base``.

    ``adapter`` is a PEFT folder or a packed adapter. A folder that is there already is an
    AlreadyExists, or is replaced when the new one is complete. Raises InvalidRequest for a base
    that is quantised and for an adapter that is more than LoRA or has other shapes, WrongBase for
    other weights or another tokenizer than the adapter's manifest says, DiskFull before the first
    byte. A kill in the middle leaves a folder beside ``target`` whose name starts with a dot.
    """
    _check_base(base)
    _check_target(target, base, adapter, replace=replace)
    config = read_config(base)
    stored = read_checkpoint(base)
    with _opened(adapter) as folder:
        _check_manifest(folder, base, config.size.vocabulary)
        has_head = "lm_head.weight" in map(language_model.plain_name, stored)
        tied = not has_head if config.tied is None else config.tied
        changes = _changes(folder, stored, tied=tied)
    total_bytes = sum(_BF16_BYTES * math.prod(tensor.shape) for tensor in stored.values())
    durable.make_folder(target.parent)
    headroom.check(target.parent, total_bytes, headroom.free_bytes(target.parent), 0)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with headroom.naming_disk_faults(target.parent):
            _write_weights(fresh, stored, changes, _counted(total_bytes, on_progress))
            _write_rest(fresh, base, stored, total_bytes)
        fresh.chmod(0o755)
        with Point.MERGE_PART:
            durable.sync_folder(fresh)
        _give_name(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Conversion(
        architecture=config.family.architecture,
        parameters=total_bytes // _BF16_BYTES,
        size_bytes=total_bytes,
        warnings=(),
    )


def _check_base(base: Path) -> None:
    if base.is_file():
        raise _quantised(f"{base} is a file, as for serving.")
    if not base.is_dir():
        raise NotFound(f"There is no folder {base}.", fix="Check the path.", field="base")
    if "quantization_config" in JsonObject.read(base / "config.json"):
        raise _quantised(f"{base} is quantised: its config.json has a `quantization_config`.")


def _quantised(what: str) -> InvalidRequest:
    return InvalidRequest(
        what,
        why="Rounding the sum of weights and adapter to few bits again drops or distorts the "
        "adapter.",
        fix="Give the original Hugging Face folder, import the merged one, and it is quantised "
        "with the adapter in it. Or serve base and adapter together, which needs no merge.",
        reason="QUANTISED_BASE",
        field="base",
    )


def _check_target(target: Path, base: Path, adapter: Path, *, replace: bool) -> None:
    place = target.resolve()
    for source in (base.resolve(), adapter.resolve()):
        if place == source or place in source.parents:
            raise InvalidRequest(f"{target} is or holds {source}, which is read.", field="target")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise AlreadyExists(f"{target} is there and is no folder.", fix="Name a new folder.")
    if target.exists() and any(target.iterdir()) and not replace:
        raise AlreadyExists(
            f"The folder {target} exists and is not empty.",
            fix="Name a new folder, or replace it with --force.",
        )


@contextlib.contextmanager
def _opened(adapter: Path) -> Iterator[Path]:
    """The adapter as a folder."""
    if adapter.is_dir():
        yield adapter
        return
    if not adapter.exists():
        raise NotFound(f"There is no adapter {adapter}.", fix="Check the path.", field="adapter")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        archive.unpack(adapter, folder)
        yield folder


def _check_manifest(folder: Path, base: Path, vocabulary: int) -> None:
    """The base of the manifest is a digest of the GGUF; what it shares with the folder that this
    was made of are the tokenizer, and the original weights where the base named them: those are
    read for it. A folder as PEFT saved it has no manifest, and only its shapes."""
    path = folder / archive.MANIFEST
    if not path.is_file():
        return
    manifest = AdapterManifest.from_json(path.read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        header = gguf.GGUFWriter(None, "none")
        add_tokenizer(header, base, vocabulary)
        gguf_file.write(Path(scratch) / "tokenizer.gguf", header, [], lambda written_bytes: None)
        found = gguf_header.read(Path(scratch) / "tokenizer.gguf").tokenizer_digest
    if found != manifest.tokenizer_digest:
        raise _wrong_folder(
            manifest.name,
            base,
            f"It goes with the tokenizer {digests.short(manifest.tokenizer_digest)}; "
            f"the folder's is {digests.short(found)}.",
        )
    wanted = manifest.source_digest
    if wanted is not None and (source := source_digest(base)) != wanted:
        raise _wrong_folder(
            manifest.name,
            base,
            f"Its base model was made of the original weights {digests.short(wanted)}; the "
            f"folder's are {digests.short(source)}.",
        )


def _wrong_folder(adapter: str, base: Path, why: str) -> WrongBase:
    return WrongBase(
        f"The adapter {adapter!r} does not fit the model in {base}.",
        why=why,
        fix="Give the folder that the adapter's base model was imported from.",
        field="base",
    )


def _changes(folder: Path, stored: Mapping[str, StoredTensor], *, tied: bool) -> dict[str, _Change]:
    """By the names of the matrices. Every tensor of the adapter has its place."""
    config_file, weights = peft.files_of(folder)
    config = JsonObject.read(config_file)
    rank = config.integer("r")
    scale = peft.scaled_alpha(config, "merged") / rank
    tensors = read_tensors(weights)
    if not tensors:
        raise InvalidRequest(f"{weights} holds no adapter: it has no tensors.")
    changes = {}
    # A checkpoint that sees pictures has other names for the same matrices.
    names = {language_model.plain_name(name): name for name in stored}
    for module in sorted({name.removesuffix(_A).removesuffix(_B) for name in tensors}):
        plain = language_model.plain_name(module.removeprefix(_PREFIX) + ".weight")
        name = names.get(plain, plain)
        a, b, matrix = tensors.get(module + _A), tensors.get(module + _B), stored.get(name)
        if plain == "lm_head.weight" and tied:
            raise InvalidRequest(
                f"{weights}: {module} adapts the output matrix, which is the embedding too.",
                why="Merged, it would change both.",
                reason="UNSUPPORTED_ADAPTER",
            )
        if a is None or b is None or matrix is None or len(a.shape) != 2 or len(b.shape) != 2:
            raise InvalidRequest(
                f"{weights}: {module} is no pair of A and B on a matrix of this model.",
                fix="Give the folder that the adapter's base model was imported from.",
                reason="UNSUPPORTED_ADAPTER",
            )
        if matrix.shape != (b.shape[0], a.shape[1]) or (a.shape[0], b.shape[1]) != (rank, rank):
            raise InvalidRequest(
                f"{weights}: {name} is adapted by {b.shape} x {a.shape}.",
                why=f"In {matrix.path} it is {matrix.shape}, and the rank is {rank}.",
                fix="Give the folder that the adapter's base model was imported from.",
            )
        changes[name] = _Change(a.rows(0, rank), b.rows(0, b.shape[0]), scale)
        if not (np.isfinite(changes[name].a).all() and np.isfinite(changes[name].b).all()):
            raise InvalidRequest(f"{weights}: {module} holds NaN or infinity.")
    return changes


def _counted(total_bytes: int, on_progress: Callable[[Progress], None]) -> Callable[[int], None]:
    written_bytes = 0

    def on_written(count: int) -> None:
        nonlocal written_bytes
        written_bytes += count
        on_progress(Progress(written_bytes, total_bytes))

    return on_written


def _write_weights(
    folder: Path,
    stored: Mapping[str, StoredTensor],
    changes: Mapping[str, _Change],
    on_written: Callable[[int], None],
) -> None:
    """Into files of the same names with the same tensors as those of the base."""
    shards: dict[str, list[str]] = {}
    for name, tensor in stored.items():
        shards.setdefault(tensor.path.name, []).append(name)
    for file_name, names in shards.items():
        with durable.replacing(folder / file_name, Point.MERGE_PART, mode=0o644) as file:
            file.write(_header({name: stored[name] for name in names}))
            for name in names:
                _write_tensor(file, stored[name], changes.get(name), on_written)


def _header(tensors: Mapping[str, StoredTensor]) -> bytes:
    """Of a safetensors file: a length, then JSON padded to eight bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + _BF16_BYTES * math.prod(tensor.shape)
        entries[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return _HEADER_LENGTH.pack(len(text)) + text


def _write_tensor(
    file: BinaryIO, source: StoredTensor, change: _Change | None, on_written: Callable[[int], None]
) -> None:
    step = max(1, SLICE_BYTES // (4 * math.prod(source.shape[1:])))
    for start in range(0, source.shape[0], step):
        stop = min(start + step, source.shape[0])
        rows = source.rows(start, stop)
        if change is not None:
            rows = rows + np.float32(change.scale) * (change.b[start:stop] @ change.a)
        if not np.isfinite(rows).all():
            raise InvalidRequest(f"{source.path}: {source.name} holds NaN or infinity.")
        data = _rounded(rows).tobytes()
        file.write(data)
        on_written(len(data))


def _rounded(values: Matrix) -> npt.NDArray[np.uint16]:
    """float32 to the nearest bfloat16, ties to even: the upper half after adding just under half
    of its last place, and the rest when that place is odd."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    halves: npt.NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(
        "<u2"
    )
    return halves


def _write_rest(
    folder: Path, base: Path, stored: Mapping[str, StoredTensor], total_bytes: int
) -> None:
    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix in _COPIED and path.name != INDEX_FILE:
            durable.write_bytes(folder / path.name, path.read_bytes(), Point.MERGE_PART, mode=0o644)
    settings = json.loads((base / "config.json").read_bytes())
    for part in (settings, *settings.values()):
        if isinstance(part, dict):
            part.pop("dtype", None)
            part.pop("torch_dtype", None)  # the older name
    settings["dtype"] = "bfloat16"
    _write_json(folder / "config.json", settings)
    if (base / INDEX_FILE).is_file():
        names = {name: tensor.path.name for name, tensor in stored.items()}
        index = {"metadata": {"total_size": total_bytes}, "weight_map": names}
        _write_json(folder / INDEX_FILE, index)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    durable.write_bytes(path, text.encode(), Point.MERGE_PART, mode=0o644)


def _give_name(fresh: Path, target: Path) -> None:
    """A folder is only renamed onto an empty one, so an old one steps aside first."""
    if not (target.exists() and any(target.iterdir())):
        durable.publish(fresh, target, Point.MERGED)
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as aside:
        old = Path(aside) / "old"
        with Point.MERGED:
            target.rename(old)
        try:
            durable.publish(fresh, target, Point.MERGED)
        except BaseException:
            with Point.MERGED:
                old.rename(target)
            raise
