"""A GGUF file, written once from front to back with its tensors streamed in slices.

The gguf package packs the header; the tensors' bytes go straight to the file, slice by slice,
because its own way of writing wants each tensor whole. The file takes its name only when it is
complete and synced.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import numpy.typing as npt
from gguf.gguf_writer import WriterState

from artifacts import digest as digests
from artifacts import durable, headroom
from artifacts.digest import Digest
from artifacts.persisting import Point
from protos.errors import NotFound

Slice = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to write: ``slices`` are its bytes in order, made when they are asked for."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    slices: Callable[[], Iterator[Slice]]

    @property
    def size_bytes(self) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // int(block) * int(block_bytes)


@dataclass(frozen=True, slots=True)
class LateDigest:
    """A digest in the header that is known only when all tensors have been made."""

    key: str
    value: Callable[[], Digest]


# As long as any digest.
_NOT_YET = digests.of_bytes(b"")


def write(
    target: Path,
    header: gguf.GGUFWriter,
    tensors: Sequence[OutputTensor],
    on_written: Callable[[int], None],
    late: LateDigest | None = None,
    check: Callable[[Path], None] = lambda complete: None,
) -> None:
    """Writes ``target`` durably; ``on_written`` gets the size of each slice as it is written.

    ``late`` becomes the last key: its value ends where the keys end, and is put there at the end.
    ``check`` gets the complete file before it takes its name, which it does not when that raises.
    """
    if late is not None:
        header.add_string(late.key, _NOT_YET)
    _check_room(target.parent, sum(tensor.size_bytes for tensor in tensors))
    with (
        headroom.naming_disk_faults(target.parent),
        durable.replacing(target, Point.MODEL_CONVERTED, mode=0o644) as file,
    ):
        keys_end = fill(file, header, tensors, on_written)
        if late is not None:
            file.seek(keys_end - len(_NOT_YET))
            file.write(late.value().encode())
        file.flush()
        check(Path(file.name))


def fill(
    file: BinaryIO,
    header: gguf.GGUFWriter,
    tensors: Sequence[OutputTensor],
    on_written: Callable[[int], None],
) -> int:
    """Writes a whole GGUF into an empty file; returns where the header's keys end."""
    for tensor in tensors:
        header.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, tensor.kind
        )
    # The writer would open a path itself; it is given the open file in the state after that.
    header.fout, header.state = [file], WriterState.EMPTY
    header.write_header_to_file()
    header.write_kv_data_to_file()
    keys_end = file.tell()
    header.write_ti_data_to_file()
    header.write_padding(file, file.tell())
    for tensor in tensors:
        for part in tensor.slices():
            file.write(np.ascontiguousarray(part).data)
            on_written(part.nbytes)
        header.write_padding(file, tensor.size_bytes)
    return keys_end


def _check_room(folder: Path, size_bytes: int) -> None:
    if not folder.is_dir():
        raise NotFound(f"The folder {folder} is not there.", fix="Make it first.")
    headroom.check(folder, size_bytes, headroom.free_bytes(folder), reserve_bytes=0)
