"""What may be in a request's body, and what each field that may not be there is told.

As OpenAI's API has it: null is as if the field were not there, and an unknown one is an error.
What the fleet's engines cannot do is refused with what to do instead; only what asks for nothing
(``n: 1``, ``tools: []``) is taken as it is. ``top_k``, ``min_p`` and ``repeat_penalty`` are ours.
"""

import difflib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from controller.gateway.errors import UNSUPPORTED_PARAMETER
from controller.jobfields import Strict
from protos.errors import InvalidRequest

F = TypeVar("F", bound="Fields")

MOST_CHOICES = 16
MOST_STOPS = 16
# As the contract's fields are wide.
MOST_TOKENS = (1 << 31) - 1

_TOKEN_ID = re.compile(r"[0-9]{1,9}")

_LEAVE_OUT = "Leave it out."
_TEXT_ONLY = "The models of the fleet read and write text."
_TOOLS = "Leave it out; for an answer of a form that a program reads there is response_format."


@dataclass(frozen=True, slots=True)
class Unsupported:
    """``harmless``: values that ask for nothing."""

    why: str
    fix: str = _LEAVE_OUT
    harmless: tuple[object, ...] = ()


_NO_TOOLS = "The fleet calls no tools."
_NO_PENALTY = "The engines know one penalty, for tokens that were there already."
_REPEAT = "Send repeat_penalty instead: 1.1, say."
UNSUPPORTED: Mapping[str, Unsupported] = {
    "tools": Unsupported(_NO_TOOLS, _TOOLS, ([],)),
    "tool_choice": Unsupported(_NO_TOOLS, _TOOLS, ("none", "auto")),
    "parallel_tool_calls": Unsupported(_NO_TOOLS, _TOOLS, (True, False)),
    "functions": Unsupported(_NO_TOOLS, _TOOLS, ([],)),
    "function_call": Unsupported(_NO_TOOLS, _TOOLS, ("none", "auto")),
    "web_search_options": Unsupported(_NO_TOOLS),
    "presence_penalty": Unsupported(_NO_PENALTY, _REPEAT, (0,)),
    "frequency_penalty": Unsupported(_NO_PENALTY, _REPEAT, (0,)),
    "modalities": Unsupported(_TEXT_ONLY, harmless=(["text"],)),
    "audio": Unsupported(_TEXT_ONLY),
    "prediction": Unsupported("The engines do not decode speculatively."),
    "reasoning_effort": Unsupported("The engines do not steer how long a model thinks."),
    "verbosity": Unsupported("Ask for short or long answers in a message.", harmless=("medium",)),
    "store": Unsupported("Nothing that is asked or answered is stored.", harmless=(False,)),
    "service_tier": Unsupported("There is one tier.", harmless=("auto", "default")),
    "best_of": Unsupported("All n answers are returned.", "Send n.", (1,)),
    "echo": Unsupported("Only what the model adds is returned.", harmless=(False,)),
    "suffix": Unsupported("The engines write on, not between.", harmless=("",)),
    "dimensions": Unsupported("A vector is as long as the model's hidden state."),
}
# For the provider's own records, of which there are none.
_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)


def texts(value: object) -> object:
    """One text, or several."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("send a text or a list of texts; token ids are of one vocabulary only")
    return tuple(found)


def biases(value: object) -> object:
    """``{"1234": -100}``: JSON has no other keys than texts."""
    if not isinstance(value, dict) or not all(_TOKEN_ID.fullmatch(key) for key in value):
        raise ValueError("it maps token ids to numbers from -100 to 100")
    return {int(key): bias for key, bias in value.items()}


Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[dict[int, Bias], BeforeValidator(biases)]


class Fields(Strict):
    model: str


class StreamOptions(Strict):
    include_usage: bool = False
    # Padding against listeners who count bytes; no device is fast enough to matter.
    include_obfuscation: bool = False


class Generation(Fields):
    """What chat and completions have in common."""

    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=MOST_TOKENS)
    min_p: float = Field(0.0, ge=0, le=1)
    repeat_penalty: float = Field(0.0, ge=0, le=100)
    seed: int | None = None
    stop: Texts = Field((), max_length=MOST_STOPS)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    logit_bias: Biases = Field(default_factory=dict)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def greedy_or(self) -> float:
        """The temperature. A ``top_p`` of 0 leaves the likeliest token alone; to the engine 0 is
        off."""
        return self.temperature if self.top_p else 0.0


def read(kind: type[F], body: Mapping[str, object]) -> F:
    """The body as ``kind``. Raises InvalidRequest about its first mistake."""
    given = {
        name: value
        for name, value in body.items()
        if value is not None and name not in _WITHOUT_EFFECT
    }
    for name in [name for name in given if name in UNSUPPORTED and name not in kind.model_fields]:
        _check_harmless(name, given.pop(name))
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _wrong(kind, error.errors()[0]) from None


def _check_harmless(name: str, value: object) -> None:
    known = UNSUPPORTED[name]
    # To Python 0 is False; to JSON it is not.
    kinds = ((ok, isinstance(ok, bool)) for ok in known.harmless)
    if not any(value == ok and isinstance(value, bool) == is_bool for ok, is_bool in kinds):
        raise unsupported(f"`{name}` is not supported.", known.why, known.fix, name)


def unsupported(what: str, why: str, fix: str, field: str) -> InvalidRequest:
    return InvalidRequest(what, why=why, fix=fix, reason=UNSUPPORTED_PARAMETER, field=field)


def _wrong(kind: type[Fields], detail: ErrorDetails) -> InvalidRequest:
    path = [str(part) for part in detail["loc"]]
    field = path[0] if path else ""
    if detail["type"] == "missing":
        return InvalidRequest(
            f"`{'.'.join(path)}` is missing.",
            reason="MISSING_REQUIRED_PARAMETER",
            field=field,
        )
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], kind.model_fields, n=1)
        return InvalidRequest(
            f"`{'.'.join(path)}` is unknown.",
            fix=f"Did you mean `{near[0]}`?" if near else _LEAVE_OUT,
            reason="UNKNOWN_PARAMETER",
            field=field,
        )
    said = detail["msg"].removeprefix("Value error, ").rstrip(".")
    said = said[:1].lower() + said[1:]
    return InvalidRequest(
        f"`{'.'.join(path)}` is {reprlib.repr(detail['input'])}: {said}.", field=field
    )


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if inner is not None}
