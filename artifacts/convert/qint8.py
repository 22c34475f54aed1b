"""optimum-quanto's qint8: a matrix as int8 with one symmetric scale for each row.

It is quanto's own arithmetic (``quantize(model, weights=qint8)`` and ``freeze``) on a few rows at a
time, in the data type of the checkpoint, on which the scales depend: absmax / 127. What quanto
would hold, a model in full precision, never exists. In the file a matrix has GGUF's type I8, and
its scales follow as a float32 vector.

quanto brings torch, so it is an extra of its own.
"""

from collections.abc import Iterator

import gguf
import numpy as np
import numpy.typing as npt
import torch
from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight

from artifacts.convert.families import Rows, TensorSpec, scale_name
from artifacts.convert.gguf_file import OutputTensor, Slice

_DATA_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def tensors(
    spec: TensorSpec, dtype: str, slices: Iterator[Rows]
) -> tuple[OutputTensor, OutputTensor]:
    """The matrix and its scales, to be written one after the other, once. ``slices``: its rows in
    the order of the file; ``dtype``: safetensors' word for the checkpoint's."""
    # One array from the start: small ones that stay, between large ones that go, keep the heap from
    # being used again, and the process grew to the size of the file.
    scales = np.empty(spec.shape[0], np.float32)

    def values() -> Iterator[Slice]:
        first = 0
        for rows in slices:
            quantised, scale = quantise(rows, dtype)
            scales[first : first + len(scale)] = scale
            first += len(scale)
            yield quantised

    def scale_vector() -> Iterator[Slice]:
        yield scales

    kinds = gguf.GGMLQuantizationType
    return (
        OutputTensor(spec.target, spec.shape, kinds.I8, values),
        OutputTensor(scale_name(spec.target), spec.shape[:1], kinds.F32, scale_vector),
    )


def quantise(rows: Rows, dtype: str) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """(rows, columns) int8 and (rows,) scales; those are of ``dtype``, widened."""
    matrix = torch.from_numpy(np.ascontiguousarray(rows)).to(_DATA_TYPES[dtype])
    scale = AbsmaxOptimizer()(matrix, qint8, 0)
    values = quantize_weight(matrix, qint8, 0, scale, optimized=False)._data
    # A row of zeros: 0 / 0 as an integer is whatever the machine makes of it.
    values = values.masked_fill(scale == 0, 0)
    return values.numpy(), scale.flatten().float().numpy()
