"""``/v1/embeddings``: texts as vectors of length 1, as numbers or as base64 of float32."""

import base64
import struct
from collections.abc import Sequence
from typing import Literal

from controller.gateway.fields import Fields, Texts
from controller.gateway.models import Model
from controller.web.exchange import Json
from protos.errors import InvalidRequest
from protos.nanofleet.v1.inference_pb2 import EmbedResponse

# The API's.
MOST_TEXTS = 2048


class EmbeddingFields(Fields):
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"

    def checked(self) -> Sequence[str]:
        if not 0 < len(self.input) <= MOST_TEXTS or not all(self.input):
            raise InvalidRequest(
                f"`input` has {len(self.input)} texts.",
                why=f"1 to {MOST_TEXTS} go into one request, and none may be empty.",
                fix="Send several requests.",
                field="input",
            )
        return self.input


def document(fields: EmbeddingFields, model: Model, found: Sequence[EmbedResponse]) -> Json:
    tokens = sum(response.tokens for response in found)
    data = [
        {
            "object": "embedding",
            "index": response.index,
            "embedding": encoded(response.embedding, fields.encoding_format),
        }
        for response in found
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model.id, "usage": usage}


def encoded(vector: Sequence[float], form: str) -> object:
    """Little-endian, as the official client reads it."""
    if form == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
