"""The digest of a model's original weights, which all files that are made of them have in common.

A q8_0, a q4_0 and a qint8 file of one Hugging Face folder are one model to an adapter: what was
learned on one holds on the others, up to their rounding. So each file names what it was made of.

Of the content, not of the files: each tensor by its name, shape and numbers, widened to float32,
and the settings that they are computed with. Shards, the order of the tensors, the data type they
are stored in, copies of a tied head and the generation of config.json mean nothing. The tokenizer
has a digest of its own (gguf_header.py).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator

import numpy as np

from artifacts.convert.config import ModelConfig
from artifacts.convert.families import Rows, TensorSpec
from artifacts.digest import ALGORITHM, Digest


class SourceDigest:
    """Takes in each tensor of a model while it is read for something else, whole and once."""

    def __init__(self, config: ModelConfig) -> None:
        self._settings = _settings(config)
        self._tensors: dict[str, bytes] = {}

    def reading(self, spec: TensorSpec, slices: Iterator[Rows]) -> Iterator[Rows]:
        """The same slices: the tensor's rows in the order of the checkpoint."""
        running = hashlib.sha256(f"{spec.source} {spec.shape}\n".encode())
        for rows in slices:
            running.update(np.ascontiguousarray(rows, "<f4").data)
            yield rows
        self._tensors[spec.source] = running.digest()

    def digest(self) -> Digest:
        """Of the tensors that have passed."""
        running = hashlib.sha256(self._settings)
        for name in sorted(self._tensors):
            running.update(self._tensors[name])
        return Digest(f"{ALGORITHM}:{running.hexdigest()}")


def _settings(config: ModelConfig) -> bytes:
    """Whether the head is tied shows in the tensors; how long a context may be computes nothing."""
    fields = dataclasses.asdict(config)
    for name in ("family", "tied", "context_length"):
        fields.pop(name)
    return json.dumps({**fields, "model_type": config.family.model_type}, sort_keys=True).encode()
