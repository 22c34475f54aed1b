"""From a line to what is asked, and to a line of the new dataset."""

import pytest

from agent.batch import asking
from agent.inference.engine import Message
from artifacts import samples
from artifacts.prompts import PromptLine
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.inference_pb2 import Chat, ChatMessage
from protos.nanofleet.v1.job_pb2 import Conversation, GenerateSpec

LINE = PromptLine(3, {"question": "Who?", "nothing": " "})


def chat(*told: tuple[str, str]) -> Chat:
    return Chat(messages=[ChatMessage(role=role, content=content) for role, content in told])


def test_a_chat_is_filled_in_and_its_answer_appended() -> None:
    spec = GenerateSpec(
        chat=chat(("system", "Be {{brief}}."), ("user", "Q: {question}")),
        output=job_pb2.OUTPUT_SHAPE_CHAT,
    )
    prompt = asking.asked(spec, LINE)
    assert prompt == (Message("system", "Be {brief}."), Message("user", "Q: Who?"))
    assert asking.sample(spec, LINE, prompt, "Pico.") == {
        "messages": [
            {"role": "system", "content": "Be {brief}."},
            {"role": "user", "content": "Q: Who?"},
            {"role": "assistant", "content": "Pico."},
        ]
    }
    spec.output_prompt = "{question}"
    assert asking.sample(spec, LINE, prompt, "Pico.") == {
        "messages": [
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Pico."},
        ]
    }
    spec.output = job_pb2.OUTPUT_SHAPE_COMPLETION
    assert asking.sample(spec, LINE, prompt, "x") == {"prompt": "Who?", "completion": "x"}


def test_text_is_continued_as_it_is() -> None:
    spec = GenerateSpec(prompt="Q: {question} A:", output=job_pb2.OUTPUT_SHAPE_COMPLETION)
    prompt = asking.asked(spec, LINE)
    assert prompt == "Q: Who? A:"
    sample = asking.sample(spec, LINE, prompt, " Pico.")
    assert sample == {"prompt": "Q: Who? A:", "completion": " Pico."}


def test_a_conversation_gets_the_system_message_unless_it_has_one() -> None:
    spec = GenerateSpec(conversation=Conversation(system="Be kind."))
    user, own = samples.Message("user", "Hi"), samples.Message("system", "Be brief.")
    assert asking.asked(spec, PromptLine(1, {}, (user,))) == (
        Message("system", "Be kind."),
        Message("user", "Hi"),
    )
    found = asking.asked(spec, PromptLine(1, {}, (own, user)))
    assert found == (Message("system", "Be brief."), Message("user", "Hi"))


@pytest.mark.parametrize(
    "spec",
    [
        GenerateSpec(prompt="{nothing}"),
        GenerateSpec(chat=chat(("system", "{nothing}"), ("user", "{question}"))),
        GenerateSpec(prompt="{question}", output_prompt="{nothing}"),
    ],
)
def test_what_would_be_empty_is_not_asked(spec: GenerateSpec) -> None:
    assert asking.asked(spec, LINE) is None


def test_each_answer_has_a_seed_of_its_own() -> None:
    seeds = {asking.seed_of(s, line, n) for s in (0, 1) for line in range(50) for n in (1, 2)}
    assert len(seeds) == 200
    assert asking.seed_of(7, 3, 1) == 4_060_532_042, "the same on every machine, for ever"
