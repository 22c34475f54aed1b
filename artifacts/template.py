"""Prompt templates: text with the names of a line's fields in braces, ``Answer: {question}``.

Only plain names: a template that could look into objects, or format what it finds, would be a
small program, and its mistakes would show in the thousandth line. A brace that is text is written
twice.
"""

import string
from collections.abc import Mapping
from functools import lru_cache

from protos.errors import InvalidRequest
from protos.nanofleet.v1.job_pb2 import GenerateSpec

_SUMMARY_CHARACTERS = 60


def fields_of(template: str) -> tuple[str, ...]:
    """The names in the order in which they come, each once. Raises InvalidRequest."""
    return tuple(dict.fromkeys(name for _, name in _parts(template) if name is not None))


def named_in(spec: GenerateSpec) -> tuple[str, ...]:
    """The fields that the templates of a batch generation name, each once."""
    texts = [spec.prompt, *(message.content for message in spec.chat.messages), spec.output_prompt]
    return tuple(dict.fromkeys(name for text in texts for name in fields_of(text)))


def rendered(template: str, fields: Mapping[str, str]) -> str:
    """The text with each name replaced by its field; what stands in a field is not read again.

    KeyError for a field that is not there: whoever renders has checked the line."""
    return "".join(
        text + (fields[name] if name is not None else "") for text, name in _parts(template)
    )


@lru_cache(maxsize=64)
def _parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """Pieces of text, each with the name of the field that follows it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _wrong(template, f"{error}.") from None
    parts = []
    for text, name, form, conversion in parsed:
        if form or conversion or (name is not None and not name.isidentifier()):
            raise _wrong(template, f"{{{name}}} is no name of a field: letters, digits and _.")
        parts.append((text, name))
    return tuple(parts)


def _wrong(template: str, why: str) -> InvalidRequest:
    short = template if len(template) <= _SUMMARY_CHARACTERS else f"{template[:57]}…"
    return InvalidRequest(
        f"The template {short!r} cannot be used.",
        why=why,
        fix="A field is written as {name}; a brace that is text is written twice, as {{ or }}.",
        reason="INVALID_TEMPLATE",
        field="template",
    )
