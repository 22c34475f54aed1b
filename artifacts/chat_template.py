"""Messages to text, by the chat template inside a base model's GGUF file.

The template is a Jinja program that came with the model. Training and serving must render it to the
same characters, so there is this one place, with the conventions of Transformers: blocks trimmed,
``raise_exception`` and ``strftime_now`` at hand, ``tojson`` without HTML escapes, the texts of BOS
and EOS as variables. It is somebody else's program: it runs in Jinja's sandbox.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NoReturn, Protocol

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from protos.errors import InvalidRequest


class Message(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


class ChatTemplate:
    """A compiled template; InvalidRequest when ``source`` is no Jinja."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise _refused(error) from error

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the assistant begins; special tokens are in it as text."""
        return self._render(messages, add_generation_prompt=True)

    def conversation(self, messages: Sequence[Message]) -> str:
        """The text of these turns and no more."""
        return self._render(messages, add_generation_prompt=False)

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=[{"role": m.role, "content": m.content} for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _refused(error) from error


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words; the text is the same without it."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's name, and its type

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refused(error: Exception) -> InvalidRequest:
    return InvalidRequest(
        "The chat template of the base model refuses these messages.",
        why=f"It says: {str(error).rstrip('.')}.",
        fix="Send the roles in the order in which this model was taught them.",
        reason="TEMPLATE_REFUSED",
        field="chat",
    )
