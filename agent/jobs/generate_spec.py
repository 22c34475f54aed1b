"""Is this a batch generation that an agent could run at all? The shape only, as in spec.py."""

import math

from artifacts import digest, template
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import GenerateSpec

_MAX_DATASET_NAME = 255
_MOST_TEMPLATE_CHARACTERS = 1 << 16
_MOST_STOPS = 16
_CHOOSABLE = (
    job_pb2.ANSWER_FAULT_LOOP,
    job_pb2.ANSWER_FAULT_CUT,
    job_pb2.ANSWER_FAULT_NOT_JSON,
    job_pb2.ANSWER_FAULT_REPEATED,
)


def check(spec: GenerateSpec) -> None:
    """Raises InvalidRequest that names the first wrong field."""
    digest.parse(spec.base_digest, "generate.base_digest")
    digest.parse(spec.dataset_digest, "generate.dataset_digest")
    if spec.adapter_digest:
        digest.parse(spec.adapter_digest, "generate.adapter_digest")
    if len(spec.dataset_name) > _MAX_DATASET_NAME or "\0" in spec.dataset_name:
        raise _wrong("dataset_name", f"is longer than {_MAX_DATASET_NAME} characters, or has a NUL")
    _check_template(spec)
    _check_output(spec)
    for field, value, least, most in (
        ("answers", spec.answers, 1, 64),
        ("max_tokens", spec.max_tokens, 1, 1 << 17),
        ("context_length", spec.context_length, 8, 1 << 17),
        ("threads", spec.threads, 0, 1024),
        ("sampling.temperature", spec.sampling.temperature, 0, 100),
        ("sampling.top_p", spec.sampling.top_p, 0, 1),
        ("sampling.min_p", spec.sampling.min_p, 0, 1),
        ("sampling.repeat_penalty", spec.sampling.repeat_penalty, 0, 100),
    ):
        if not (math.isfinite(value) and least <= value <= most):
            raise _wrong(field, f"is {value:g}; it must lie between {least} and {most}")
    if len(spec.stop) > _MOST_STOPS or not all(spec.stop):
        raise _wrong("stop", f"has an empty text, or more than {_MOST_STOPS}")
    if any(fault not in _CHOOSABLE for fault in spec.drop):
        raise _wrong(
            "drop", "names a fault that is not one to choose: LOOP, CUT, NOT_JSON, REPEATED"
        )


def _check_template(spec: GenerateSpec) -> None:
    kind = spec.WhichOneof("template")
    if kind is None:
        raise _wrong("template", "is not set")
    if kind == "chat":
        roles = [message.role for message in spec.chat.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        expected = ["assistant" if number % 2 else "user" for number in range(len(turns))]
        if not turns or turns != expected or turns[-1] != "user":
            raise _wrong(
                "chat", "must be: system (optional), user, assistant, user, … and end with the user"
            )
    contents = [message.content for message in spec.chat.messages]
    for text in (spec.prompt, spec.output_prompt, *contents):
        if len(text) > _MOST_TEMPLATE_CHARACTERS:
            raise _wrong("template", f"is longer than {_MOST_TEMPLATE_CHARACTERS} characters")
        template.fields_of(text)
    if not all(contents) or (kind == "prompt" and not spec.prompt):
        raise _wrong("template", "has an empty text")
    if kind == "conversation" and spec.output_prompt:
        raise _wrong("output_prompt", "names fields, and a conversation has none")


def _check_output(spec: GenerateSpec) -> None:
    if spec.output == job_pb2.OUTPUT_SHAPE_UNSPECIFIED:
        raise _wrong("output", "is not set")
    is_one = spec.HasField("prompt") or len(spec.chat.messages) == 1
    if spec.output == job_pb2.OUTPUT_SHAPE_COMPLETION and not (is_one or spec.output_prompt):
        raise _wrong("output", "is COMPLETION, which has no place for several messages")


def _wrong(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"generate.{field} {what}.", field=f"generate.{field}")
