"""GGUF files as another program writes them, with the gguf package's own way of writing.

The names and keys are those of llama.cpp's converter: keys that follow from others are left out,
others are there that nobody needs, and the tensors lie in another order, elsewhere aligned.
"""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from artifacts import base_model
from artifacts.convert import FileType, convert_model
from artifacts.convert.written import Written

Kind = gguf.GGMLQuantizationType
# The type of a tensor by its name.
Mix = Callable[[str], Kind]

_OURS = ("GGUF.", "general.", "nanofleet.")
# Written where they differ from what follows only: for Gemma 3 and Qwen 3.
_FOLLOWS = ("attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size")


def write(folder: Path, target: Path, mix: Mix, *, alignment: int = 64) -> Path:
    """The model of a Hugging Face folder, with the tensors in the types of ``mix``."""
    exact = target.with_suffix(".exact")
    convert_model(folder, exact, FileType.F32)
    base = base_model.read(exact)
    writer = gguf.GGUFWriter(target, base.architecture)
    writer.add_custom_alignment(alignment)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_author("somebody else")
    writer.add_tags(["text-generation", "edge"])
    writer.add_uint32("general.base_model.count", 1)
    widths = base.embedding_length // int(
        str(base.metadata[f"{base.architecture}.attention.head_count"])
    )
    follows = base.tensors["blk.0.attn_q.weight"].shape[0] == base.embedding_length and widths
    for field in gguf.GGUFReader(exact).fields.values():
        key = field.name.removeprefix(f"{base.architecture}.")
        if field.name.startswith(_OURS) or (follows and key in _FOLLOWS):
            continue
        of = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], of)
    written = Written(base)
    for name, info in sorted(base.tensors.items(), reverse=True):
        values = written.stored(name, 0, info.shape[0])
        # What the frequencies are divided by, no converter rounds.
        kind = Kind.F32 if name.startswith("rope_") else mix(name)
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    exact.unlink()
    return target
