"""A base model: one GGUF file with weights, tokenizer and chat template inside.

What the agent, the trainer and the forecasts have to know of it, read from its header (see
gguf_header.py) in pure Python, in about a tenth of a second and without touching the weights.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts import digest as digests
from artifacts import gguf_header
from artifacts.digest import Digest
from artifacts.gguf_header import TensorInfo
from artifacts.gguf_values import ArrayInfo, Value
from protos.errors import InvalidRequest

__all__ = ["SOURCE_KEY", "ArrayInfo", "BaseModel", "TensorInfo", "Value", "read"]

SOURCE_KEY = "nanofleet.source_digest"
QINT8 = "QINT8"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The header of a base model.

    ``metadata`` has the GGUF keys; arrays of more than 64 elements are ArrayInfo. The properties
    raise InvalidRequest, with the file and the key, when the file does not say.
    """

    path: Path
    architecture: str
    name: str
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    tokenizer_digest: Digest
    size_bytes: int

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to attend to."""
        return self._shape_value("context_length")

    @property
    def embedding_length(self) -> int:
        """The width of the hidden state."""
        return self._shape_value("embedding_length")

    @property
    def block_count(self) -> int:
        """Decoder layers."""
        return self._shape_value("block_count")

    @property
    def vocabulary_size(self) -> int:
        """Tokens that the tokenizer knows, which is the width of the logits."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayInfo):
            return tokens.count
        if isinstance(tokens, tuple):
            return len(tokens)
        return self._shape_value("vocab_size")

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def file_type(self) -> str:
        """The number format that most of the parameters have: ``Q8_0``, ``F16``, …; ``QINT8`` is
        int8 with a scale for each row."""
        parameters: Counter[str] = Counter()
        for tensor in self.tensors.values():
            parameters[tensor.type] += math.prod(tensor.shape)
        most = parameters.most_common(1)[0][0]
        return QINT8 if most == "I8" else most

    @property
    def is_for_training_only(self) -> bool:
        """qint8: llama.cpp has no such type and could not serve it."""
        return self.file_type == QINT8

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that turns messages into a prompt."""
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    @property
    def source_digest(self) -> Digest | None:
        """Of the original weights: the same in all files that were made of them, whatever their
        type. None: the file does not say, because another program or an older version made it."""
        said = self.metadata.get(SOURCE_KEY)
        if said is None:
            return None
        try:
            return digests.parse(str(said))
        except InvalidRequest as error:
            raise _unusable(self.path, f"Its {SOURCE_KEY}: {error.what}") from None

    def is_sibling_of(self, other: "BaseModel") -> bool:
        """Whether both were made of the same original weights, with the same tokenizer."""
        same = (other.source_digest, other.tokenizer_digest)
        return (
            self.source_digest is not None and (self.source_digest, self.tokenizer_digest) == same
        )

    def _shape_value(self, key: str) -> int:
        full_key = f"{self.architecture}.{key}"
        value = self.metadata.get(full_key)
        if isinstance(value, int) and value > 0:
            return value
        raise _unusable(self.path, f"Its header has no usable {full_key}: {value!r}.")


def read(path: Path) -> BaseModel:
    """Reads the header; raises InvalidRequest when the file is no complete GGUF model.

    Time and memory are bounded for every file, a hostile one too.
    """
    header = gguf_header.read(path)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise _unusable(path, "Its header does not name an architecture.")
    if header.metadata.get("general.type", "model") != "model":
        raise _unusable(path, f"Its header says that it is: {header.metadata['general.type']}.")
    parts = header.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise InvalidRequest(
            f"{path} is not a whole base model.",
            why=f"It is one of the {parts} files of a split model.",
            fix="Join them: llama-gguf-split --merge FIRST_FILE WHOLE_FILE.",
            reason="SPLIT_GGUF",
        )
    if not header.tensors:
        raise _unusable(path, "It has no tensors: it holds a vocabulary only.")
    name = header.metadata.get("general.name")
    return BaseModel(
        path=path,
        architecture=architecture,
        name=name if isinstance(name, str) and name else path.stem,
        metadata=header.metadata,
        tensors=header.tensors,
        tokenizer_digest=header.tokenizer_digest,
        size_bytes=header.size_bytes,
    )


def _unusable(path: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is not a base model.",
        why=why,
        fix="Import a GGUF file or a Hugging Face folder of a language model.",
        reason="INVALID_GGUF",
    )
