import pytest

from agent.inference.chat import Chat
from agent.inference.engine import Message
from agent.inference.llama import LlamaEngine
from protos.errors import InvalidRequest, Refused

HELLO = (Message("user", "hello"),)


def test_a_base_without_a_template_says_what_to_do(engine: LlamaEngine) -> None:
    with pytest.raises(Refused, match=r"has no chat template.*plain prompt") as raised:
        Chat("", engine.vocabulary).tokens(HELLO)
    assert raised.value.reason == "NO_CHAT_TEMPLATE"


def test_a_broken_template_is_told_for_each_conversation(engine: LlamaEngine) -> None:
    chat = Chat("{% if %}", engine.vocabulary)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="chat template"):
            chat.tokens(HELLO)


@pytest.mark.parametrize("source", ["{{ bos_token }}", ""])
def test_bos_stands_in_front_once(engine: LlamaEngine, source: str) -> None:
    chat = Chat(source + "{{ messages[0].content }}", engine.vocabulary)
    assert chat.tokens(HELLO) == engine.tokenise("hello")
    spelled = chat.tokens((Message("user", "<bos>hello"),))
    assert spelled.count(engine.vocabulary.bos) == 1
    assert len(spelled) > len(chat.tokens(HELLO)) + 1
