"""An error as OpenAI's API says it: a status code and ``{"error": {message, type, param, code}}``.

Clients decide by the status: the official ones try again by themselves after 429 and from 500 on,
and not after the others. ``code`` is OpenAI's where it has one for the matter, else our reason.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from protos import errors
from protos.errors import NanofleetError

INVALID, SERVER, LIMIT = "invalid_request_error", "server_error", "rate_limit_error"

# For who sends too much at once and is told no time.
DEFAULT_RETRY_S = 1.0

BODY_TOO_LARGE = "BODY_TOO_LARGE"
METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
NO_DEVICE = "NO_DEVICE"
UNSUPPORTED_PARAMETER = "UNSUPPORTED_PARAMETER"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a kind of error is answered."""

    status: int
    type: str


_SHORT_OF = Answer(503, SERVER)
_WRONG = Answer(400, INVALID)

ANSWERS: Mapping[type[NanofleetError], Answer] = {
    errors.NanofleetError: Answer(500, SERVER),
    errors.InvalidRequest: _WRONG,
    errors.InvalidDataset: _WRONG,
    errors.NotFound: Answer(404, INVALID),
    errors.AlreadyExists: _WRONG,
    # By the model or the adapter, as it is: the same request will not do better later.
    errors.Refused: _WRONG,
    errors.InUse: _SHORT_OF,
    errors.WrongBase: _WRONG,
    errors.StaleGeneration: Answer(500, SERVER),
    errors.OutOfMemory: _SHORT_OF,
    errors.OffsetMismatch: Answer(500, SERVER),
    errors.DigestMismatch: Answer(500, SERVER),
    errors.DiskFull: _SHORT_OF,
    errors.DiskFailed: _SHORT_OF,
    errors.Busy: Answer(429, LIMIT),
    errors.Unauthenticated: Answer(401, INVALID),
    errors.Forbidden: Answer(403, INVALID),
    errors.Unreachable: _SHORT_OF,
    errors.TimedOut: _SHORT_OF,
    errors.WorkerFailed: Answer(500, SERVER),
    errors.InternalError: Answer(500, SERVER),
}
# Where the reason says more than the type.
_BY_REASON: Mapping[str, Answer] = {
    BODY_TOO_LARGE: Answer(413, INVALID),
    METHOD_NOT_ALLOWED: Answer(405, INVALID),
    NO_DEVICE: _SHORT_OF,
}

_CODES: Mapping[str, str] = {
    "BUSY": "rate_limit_exceeded",
    "FORBIDDEN": "insufficient_permissions",
    "INVALID_REQUEST": "invalid_value",
    "KEY_EXPIRED": "invalid_api_key",
    "KEY_MISSING": "invalid_api_key",
    "KEY_REVOKED": "invalid_api_key",
    "KEY_UNKNOWN": "invalid_api_key",
    "PROMPT_TOO_LONG": "context_length_exceeded",
}
# The contract's fields, as OpenAI's API calls them.
_PARAMS: Mapping[str, str] = {
    "adapter_digest": "model",
    "base_digest": "model",
    "chat": "messages",
    "json_schema": "response_format",
    "gbnf": "response_format",
    "texts": "input",
}


def answer_of(error: NanofleetError) -> Answer:
    return _BY_REASON.get(error.reason) or ANSWERS[type(error)]


def document(error: NanofleetError) -> dict[str, object]:
    param = error.field.removeprefix("sampling.")
    return {
        "error": {
            "message": str(error),
            "type": answer_of(error).type,
            "param": _PARAMS.get(param, param) or None,
            "code": _CODES.get(error.reason, error.reason.lower()),
        }
    }


def headers(error: NanofleetError) -> dict[str, str]:
    """When to try again, in whole seconds; and how to say who one is."""
    status = answer_of(error).status
    if status == 401:
        return {"www-authenticate": "Bearer"}
    wait_s = error.retry_after_s
    if status == 429 and wait_s is None:
        wait_s = DEFAULT_RETRY_S
    if status in (429, 503) and wait_s is not None:
        return {"retry-after": str(max(1, math.ceil(wait_s)))}
    return {}
