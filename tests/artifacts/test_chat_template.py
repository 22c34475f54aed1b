from dataclasses import dataclass
from datetime import datetime

import pytest

from artifacts.chat_template import ChatTemplate
from protos.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}
HELLO = (Message("user", "hello"),)


def rendered(source: str, *messages: Message) -> str:
    now = datetime(2030, 5, 1)
    return ChatTemplate(source, TOKENS, lambda: now).prompt(messages or HELLO)


def test_blocks_are_trimmed_as_transformers_trims_them() -> None:
    source = """{{ bos_token }}
    {% for m in messages %}
{{ m.role }}: {{ m['content'] }}
    {% endfor %}
{% if add_generation_prompt %}assistant:{% endif %}"""
    assert rendered(source) == "<bos>\nuser: hello\nassistant:"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "hello"}'),
        ("{{ strftime_now('%d %b %Y') }}", "01 May 2030"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}{{ eos_token }}{% endgeneration %}!", "<eos>!"),
        ("{{ 'tools' if tools else 'none' }}", "none"),
        ("{{ '<b>' }}", "<b>"),
    ],
)
def test_what_templates_rely_on(source: str, text: str) -> None:
    assert rendered(source) == text


def test_a_conversation_does_not_go_on_to_the_next_answer() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ '>' if add_generation_prompt }}", TOKENS)
    assert template.prompt(HELLO) == "hello>"
    assert template.conversation(HELLO) == "hello"


def test_the_templates_own_refusal_reaches_the_client() -> None:
    with pytest.raises(InvalidRequest, match="Roles must alternate"):
        rendered("{{ raise_exception('Roles must alternate.') }}")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ missing.thing }}", "{{ 1 + 'a' }}", "{{ ''.__class__.__mro__ }}"]
)
def test_a_broken_or_hostile_template_fails_this_request_only(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        rendered(source)
