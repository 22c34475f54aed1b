"""The weights of a Hugging Face folder: safetensors, one file or several with an index.

The format is read directly. The safetensors package gives NumPy arrays only of types that NumPy
has, and bfloat16, in which every model here is published, is not among them; going through torch
would cost 300 MB and a dependency. A bfloat16 is the upper half of a float32, so widening it is
one shift. Rows are read on demand: a 600 MB embedding never stands in memory as a whole.
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest, NotFound

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The limit of the safetensors library itself.
_MAX_HEADER_BYTES = 100_000_000
_LENGTH = struct.Struct("<Q")
_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: ``offset`` counts from the file's start, rows are its first axis."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start`` to ``stop`` (for a vector: elements) as float32."""
        stored = _DTYPES[self.dtype]
        row_bytes = math.prod(self.shape[1:]) * stored.itemsize
        size_bytes = (stop - start) * row_bytes
        with self.path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size_bytes, self.offset + start * row_bytes)
        if len(data) != size_bytes:
            raise InvalidRequest(f"{self.path} ended inside {self.name}: it changed meanwhile.")
        return _widened(np.frombuffer(data, stored), self.dtype).reshape(-1, *self.shape[1:])


def _widened(values: npt.NDArray[np.generic], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        bits: npt.NDArray[np.uint32] = values.astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    return values.astype(np.float32)


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's model by its name; the headers only are read."""
    index = folder / INDEX_FILE
    if index.is_file():
        return _read_sharded(folder, JsonObject.read(index).child("weight_map"))
    single = folder / SINGLE_FILE
    if single.is_file():
        return read_tensors(single)
    why = ""
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        why = "Its weights are pickles, which can run code and are not read."
    raise NotFound(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.",
        why=why,
        fix="Save the model with save_pretrained(), which writes safetensors.",
    )


def _read_sharded(folder: Path, weight_map: JsonObject) -> dict[str, StoredTensor]:
    names = {tensor: weight_map.text(tensor) for tensor in weight_map}
    shards = sorted(set(names.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise InvalidRequest(f"{weight_map.where}: {shard!r} is not a plain file name.")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise NotFound(
            f"{folder} lacks {', '.join(missing)}.",
            why=f"{INDEX_FILE} names {len(shards)} files.",
            fix="Download the missing files.",
        )
    found = {shard: read_tensors(folder / shard) for shard in shards}
    for tensor, shard in names.items():
        if tensor not in found[shard]:
            raise InvalidRequest(f"{folder / shard} lacks {tensor}.", why=f"{INDEX_FILE} has it.")
    return {tensor: found[shard][tensor] for tensor, shard in names.items()}


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file; raises InvalidRequest when it is damaged."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size_bytes
        if length > min(size_bytes - _LENGTH.size, _MAX_HEADER_BYTES):
            raise InvalidRequest(
                f"{path} is no safetensors file.",
                why="Its header is longer than the file: it was cut off, or is of another kind.",
                fix="Download it again, or save it again as safetensors.",
            )
        raw = file.read(length)
    header = JsonObject.parse(str(path), raw)
    start = _LENGTH.size + length
    return {
        name: _tensor(path, name, header.child(name), start, size_bytes)
        for name in header
        if name != "__metadata__"
    }


def _tensor(path: Path, name: str, entry: JsonObject, start: int, size_bytes: int) -> StoredTensor:
    dtype = entry.text("dtype")
    if dtype not in _DTYPES:
        raise InvalidRequest(
            f"{path}: {name} is stored as {dtype}.",
            why=f"Weights are read as {', '.join(_DTYPES)}.",
            fix="Save it in one of these; of a model take the original, not a quantised one.",
        )
    shape = entry.whole_numbers("shape")
    offsets = entry.whole_numbers("data_offsets")
    expected = math.prod(shape) * _DTYPES[dtype].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected:
        raise InvalidRequest(
            f"{path}: the size of {name} contradicts its shape {shape}.",
            fix="Download it again, or save it again.",
        )
    if start + offsets[1] > size_bytes:
        raise InvalidRequest(
            f"{path} ends before {name}.", why="It was cut off.", fix="Download it again."
        )
    return StoredTensor(path, name, dtype, shape, start + offsets[0])
