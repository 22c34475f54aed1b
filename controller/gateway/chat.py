"""``/v1/chat/completions``: a conversation, through the model's own template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from controller.gateway.fields import MOST_TOKENS, Generation, unsupported, without_nulls
from controller.gateway.speaking import Prompt
from controller.web.exchange import Json
from protos.errors import InvalidRequest
from protos.nanofleet.v1.inference_pb2 import Candidate, TokenLogprob

# The API has none; the agent's own 256 is short for a chat, and all that the context holds would
# keep others from sharing batches with it.
DEFAULT_MAX_TOKENS = 512

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_ANY_OBJECT = '{"type": "object"}'


class ChatFields(Generation):
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] = Field(default_factory=dict)

    @property
    def prompts(self) -> list[Prompt]:
        return [
            Prompt(
                messages=[_message(n, fields) for n, fields in enumerate(self.messages)],
                json_schema=_schema(self.response_format),
                top_logprobs=self._top_logprobs(),
                max_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS,
            )
        ]

    def _top_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest(
                "`top_logprobs` is there, and `logprobs` is not true.",
                fix="Send `logprobs: true` with it.",
                field="top_logprobs",
            )
        return None


class ChatVoice:
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    part_object = "chat.completion.chunk"

    def opening(self) -> Json | None:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def part(self, text: str, logprobs: Json | None) -> Json:
        return {"delta": {"content": text}, "logprobs": logprobs}

    def closing(self) -> Json:
        return {"delta": {}, "logprobs": None}

    def whole(self, text: str, logprobs: Json | None) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": logprobs}

    def logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> Json:
        content = [
            {**_candidate(token.chosen), "top_logprobs": [_candidate(one) for one in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _candidate(candidate: Candidate) -> dict[str, object]:
    """``bytes`` is exact: a token may be half a character."""
    return {
        "token": candidate.piece.decode(errors="replace"),
        "logprob": candidate.logprob,
        "bytes": list(candidate.piece),
    }


def _message(number: int, fields: Mapping[str, Any]) -> tuple[str, str]:
    """Role and content of the message at that place."""
    where, given = f"messages[{number}]", without_nulls(fields)
    role = _ROLES.get(str(given.pop("role", "")))
    if role is None:
        raise InvalidRequest(
            f"`{where}.role` is {fields.get('role')!r}.",
            why="The templates know system, user and assistant; developer is read as system.",
            fix="Write a tool's result as a user's message."
            if fields.get("role") in ("tool", "function")
            else "Use one of these.",
            field="messages",
        )
    content = _content(given.pop("content", None), where)
    for name, value in given.items():
        if value not in ([], ""):
            raise unsupported(
                f"`{where}.{name}` is not supported.",
                "A message has a role and a text.",
                "Leave it out, or say it in the text.",
                "messages",
            )
    return role, content


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidRequest(
            f"`{where}.content` is neither a text nor a list of parts.",
            fix='Write "content": "…".',
            field="messages",
        )
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise unsupported(
                f"`{where}.content[{number}]` is {kind or 'no text'!r}.",
                "The models of the fleet read text.",
                'Send parts like {"type": "text", "text": "…"} only.',
                "messages",
            )
    return "".join(part["text"] for part in content)


def _schema(wanted: Mapping[str, Any]) -> str:
    """The JSON schema that binds the answer; empty for none. It is always held, ``strict`` or
    not."""
    kind = wanted.get("type", "text")
    if kind == "text":
        return ""
    if kind == "json_object":
        return _ANY_OBJECT
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if kind != "json_schema" or schema is None:
        raise InvalidRequest(
            "`response_format` is none that there is.",
            fix='Send {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema",'
            ' "json_schema": {"name": "…", "schema": {…}}}.',
            field="response_format",
        )
    return json.dumps(schema, ensure_ascii=False)
