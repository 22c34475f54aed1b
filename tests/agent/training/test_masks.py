"""Masks token by token, written by hand: each shape of a dataset in each family's chat template."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.tokens import vocabulary as vocabularies
from agent.tokens.vocabulary import Vocabulary
from agent.training.examples import ExampleMaker
from artifacts import base_model
from artifacts.chat_template import ChatTemplate
from artifacts.samples import (
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Sample,
    TextSample,
)
from tests.agent.training import hand_made

# In the form of Qwen 2.5's: a conversation without a system message is given one.
QWEN_2 = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# In the form of Qwen 3's: the last answer is preceded by its thoughts, here none; earlier ones are
# written without.
QWEN_3 = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# In the form of Llama 3's: BOS is the template's, texts are trimmed, no line ends a turn.
LLAMA_3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

Mask = list[tuple[str, bool]]


@dataclass(frozen=True)
class Base:
    """``template``: the one in the file; None for a base that has none."""

    vocabulary: Vocabulary
    template: str | None

    def mask(self, sample: Sample) -> Mask:
        """Of the only example: every token's text, and whether it is learned."""
        (mask,) = self.masks(sample)
        return mask

    def masks(self, sample: Sample) -> list[Mask]:
        """The same of each example."""
        return [
            list(zip(map(self._text, example.tokens), example.labelled, strict=True))
            for example in self.maker(self.template).make(sample)
        ]

    def maker(self, template: str | None) -> ExampleMaker:
        special = self.vocabulary.special_texts()
        return ExampleMaker(
            self.vocabulary, ChatTemplate(template, special) if template else None, "data.jsonl"
        )

    def without_template(self) -> "Base":
        return Base(self.vocabulary, None)

    def _text(self, token: int) -> str:
        if self.vocabulary.is_control(token):
            return self.vocabulary.text_of(token)
        return self.vocabulary.bytes_of(token).decode()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[dict[str, Base]]:
    folder = tmp_path_factory.mktemp("masks")
    paths = {
        "gemma": tiny_base,
        "qwen": hand_made.build("qwen2", folder / "qwen", QWEN_2),
        "llama": hand_made.build("llama", folder / "llama", LLAMA_3),
    }
    with ExitStack() as stack:
        yield {
            name: Base(
                stack.enter_context(vocabularies.opened(path)),
                base_model.read(path).chat_template or None,
            )
            for name, path in paths.items()
        }


def shown(*texts: str) -> Mask:
    return [(text, False) for text in texts]


def learned(*texts: str) -> Mask:
    return [(text, True) for text in texts]


def chat(*turns: tuple[str, str]) -> ChatSample:
    return ChatSample(3, tuple(Message(role, content) for role, content in turns))


HI = chat(("user", "Hi"), ("assistant", "Hello!"))
BRIEF = chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"))
TWICE = chat(("user", "Hi"), ("assistant", "Hello!"), ("user", "And you?"), ("assistant", "Fine."))
ADD = AlpacaSample(1, "Add.", "one and two", "three")
ADD_NOTHING = AlpacaSample(1, "Add.", "", "three")
SEA = CompletionSample(1, "The sea", " is wide")
TEXT = TextSample(1, "The sea is wide")

GEMMA_USER = ("<start_of_turn>", "u", "s", "er", "\n")
GEMMA_MODEL = ("<end_of_turn>", "\n", "<start_of_turn>", "m", "o", "de", "l", "\n")
QWEN_USER = ("<|im_start|>", "user", "\n")
QWEN_ASSISTANT = ("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n")
# fmt: off
QWEN_DEFAULT = ("<|im_start|>", "system", "\n", "You", " are", " Qwen", ".", "<|im_end|>", "\n")
# fmt: on
LLAMA_USER = ("<|start_header_id|>", "user", "<|end_header_id|>", "\n\n")
LLAMA_ASSISTANT = (
    *("<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>"),
    "\n\n",
)

CHATS: dict[str, tuple[str, Sample, Mask]] = {
    "gemma, a question": (
        "gemma",
        HI,
        [
            *shown("<bos>", *GEMMA_USER, "H", "i", *GEMMA_MODEL),
            *learned("H", "e", "ll", "o", "!", "<end_of_turn>"),
        ],
    ),
    "gemma, a system message": (
        "gemma",
        BRIEF,
        [
            *shown("<bos>", *GEMMA_USER, "B", "e ", "b", "r", "i", "e", "f", ".", "\n\n"),
            *shown("H", "i", *GEMMA_MODEL),
            *learned("H", "e", "ll", "o", "!", "<end_of_turn>"),
        ],
    ),
    "gemma, two answers": (
        "gemma",
        TWICE,
        [
            *shown("<bos>", *GEMMA_USER, "H", "i", *GEMMA_MODEL),
            *learned("H", "e", "ll", "o", "!", "<end_of_turn>"),
            *shown("\n", *GEMMA_USER, "A", "n", "d ", "y", "o", "u", "?", *GEMMA_MODEL),
            *learned("F", "in", "e", ".", "<end_of_turn>"),
        ],
    ),
    "gemma, alpaca": (
        "gemma",
        ADD,
        [
            *shown("<bos>", *GEMMA_USER, "A", "dd", ".", "\n\n"),
            *shown("o", "n", "e ", "and", " t", "w", "o", *GEMMA_MODEL),
            *learned("t", "h", "r", "e", "e", "<end_of_turn>"),
        ],
    ),
    "gemma, alpaca without an input": (
        "gemma",
        ADD_NOTHING,
        [
            *shown("<bos>", *GEMMA_USER, "A", "dd", ".", *GEMMA_MODEL),
            *learned("t", "h", "r", "e", "e", "<end_of_turn>"),
        ],
    ),
    "qwen, a question": (
        "qwen",
        HI,
        [
            *shown(*QWEN_DEFAULT, *QWEN_USER, "Hi", *QWEN_ASSISTANT),
            *learned("Hello", "!", "<|im_end|>"),
        ],
    ),
    "qwen, a system message": (
        "qwen",
        BRIEF,
        [
            *shown("<|im_start|>", "system", "\n", "Be", " brief", ".", "<|im_end|>", "\n"),
            *shown(*QWEN_USER, "Hi", *QWEN_ASSISTANT),
            *learned("Hello", "!", "<|im_end|>"),
        ],
    ),
    "qwen, two answers": (
        "qwen",
        TWICE,
        [
            *shown(*QWEN_DEFAULT, *QWEN_USER, "Hi", *QWEN_ASSISTANT),
            *learned("Hello", "!", "<|im_end|>"),
            *shown("\n", *QWEN_USER, "And", " you", "?", *QWEN_ASSISTANT),
            *learned("Fine", ".", "<|im_end|>"),
        ],
    ),
    "qwen, alpaca": (
        "qwen",
        ADD,
        [
            *shown(*QWEN_DEFAULT, *QWEN_USER, "Add", ".", "\n\n", "one", " and", " two"),
            *shown(*QWEN_ASSISTANT),
            *learned("three", "<|im_end|>"),
        ],
    ),
    "qwen, alpaca without an input": (
        "qwen",
        ADD_NOTHING,
        [
            *shown(*QWEN_DEFAULT, *QWEN_USER, "Add", ".", *QWEN_ASSISTANT),
            *learned("three", "<|im_end|>"),
        ],
    ),
    "llama, a question": (
        "llama",
        HI,
        [
            *shown("<|begin_of_text|>", *LLAMA_USER, "Hi", *LLAMA_ASSISTANT),
            *learned("Hello", "!", "<|eot_id|>"),
        ],
    ),
    "llama, a system message": (
        "llama",
        BRIEF,
        [
            *shown("<|begin_of_text|>", "<|start_header_id|>", "system", "<|end_header_id|>"),
            *shown("\n\n", "Be", " brief", ".", "<|eot_id|>"),
            *shown(*LLAMA_USER, "Hi", *LLAMA_ASSISTANT),
            *learned("Hello", "!", "<|eot_id|>"),
        ],
    ),
    "llama, two answers": (
        "llama",
        TWICE,
        [
            *shown("<|begin_of_text|>", *LLAMA_USER, "Hi", *LLAMA_ASSISTANT),
            *learned("Hello", "!", "<|eot_id|>"),
            *shown(*LLAMA_USER, "And", " you", "?", *LLAMA_ASSISTANT),
            *learned("Fine", ".", "<|eot_id|>"),
        ],
    ),
    "llama, alpaca": (
        "llama",
        ADD,
        [
            *shown("<|begin_of_text|>", *LLAMA_USER, "Add", ".", "\n\n", "one", " and", " two"),
            *shown(*LLAMA_ASSISTANT),
            *learned("three", "<|eot_id|>"),
        ],
    ),
    "llama, alpaca without an input": (
        "llama",
        ADD_NOTHING,
        [
            *shown("<|begin_of_text|>", *LLAMA_USER, "Add", ".", *LLAMA_ASSISTANT),
            *learned("three", "<|eot_id|>"),
        ],
    ),
}


@pytest.mark.parametrize(("base", "sample", "mask"), CHATS.values(), ids=CHATS)
def test_of_a_chat_the_answers_are_learned(
    bases: dict[str, Base], base: str, sample: Sample, mask: Mask
) -> None:
    assert bases[base].mask(sample) == mask


TEXTS: dict[str, tuple[str, Sample, Mask]] = {
    "gemma, a completion": (
        "gemma",
        SEA,
        [*shown("<bos>", "The ", "sea"), *learned(" i", "s ", "w", "i", "de", "<eos>")],
    ),
    "gemma, raw text": (
        "gemma",
        TEXT,
        [*shown("<bos>"), *learned("The ", "sea", " i", "s ", "w", "i", "de", "<eos>")],
    ),
    "qwen, a completion": (
        "qwen",
        SEA,
        [*shown("The", " sea"), *learned(" is", " wide", "<|im_end|>")],
    ),
    # No BOS: the first token is predicted from nothing, so it is not learned.
    "qwen, raw text": (
        "qwen",
        TEXT,
        [*shown("The"), *learned(" sea", " is", " wide", "<|im_end|>")],
    ),
    "llama, a completion": (
        "llama",
        SEA,
        [*shown("<|begin_of_text|>", "The", " sea"), *learned(" is", " wide", "<|eot_id|>")],
    ),
    "llama, raw text": (
        "llama",
        TEXT,
        [*shown("<|begin_of_text|>"), *learned("The", " sea", " is", " wide", "<|eot_id|>")],
    ),
}


@pytest.mark.parametrize("template", [True, False], ids=["with a template", "without"])
@pytest.mark.parametrize(("base", "sample", "mask"), TEXTS.values(), ids=TEXTS)
def test_texts_have_no_turns(
    bases: dict[str, Base], base: str, sample: Sample, mask: Mask, template: bool
) -> None:
    found = bases[base] if template else bases[base].without_template()
    assert found.mask(sample) == mask


INSTRUCTION = ("###", " Instruction", ":", "\n", "Add", ".", "\n\n")
INPUT = ("###", " Input", ":", "\n", "one", " and", " two", "\n\n")
RESPONSE = ("###", " Response", ":", "\n")


@pytest.mark.parametrize(
    ("base", "begin", "end"),
    [("qwen", (), "<|im_end|>"), ("llama", ("<|begin_of_text|>",), "<|eot_id|>")],
)
def test_alpaca_without_a_template_has_headings(
    bases: dict[str, Base], begin: tuple[str, ...], base: str, end: str
) -> None:
    found = bases[base].without_template()
    assert found.mask(ADD) == [
        *shown(*begin, *INSTRUCTION, *INPUT, *RESPONSE),
        *learned("three", end),
    ]
    assert found.mask(ADD_NOTHING) == [
        *shown(*begin, *INSTRUCTION, *RESPONSE),
        *learned("three", end),
    ]


THOUGHTS = ("<", "th", "i", "n", "k", ">", "\n\n", "<", "/", "th", "i", "n", "k", ">", "\n\n")


def test_thoughts_that_a_template_puts_before_the_last_answer(bases: dict[str, Base]) -> None:
    """Serving leaves them to the model, so they are learned."""
    thinking = Base(bases["qwen"].vocabulary, QWEN_3)
    assert thinking.mask(HI) == [
        *shown(*QWEN_USER, "Hi", *QWEN_ASSISTANT),
        *learned(*THOUGHTS, "Hello", "!", "<|im_end|>"),
    ]


def test_answers_that_a_template_writes_otherwise_later_are_learned_apart(
    bases: dict[str, Base],
) -> None:
    """Each with the prompt that serving renders for it, in which no earlier one has thoughts."""
    thinking = Base(bases["qwen"].vocabulary, QWEN_3)
    sample = chat(
        *(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")),
        *(("user", "And you?"), ("assistant", "Fine."), ("user", "Add."), ("assistant", "three")),
    )
    system = shown("<|im_start|>", "system", "\n", "Be", " brief", ".", "<|im_end|>", "\n")
    hello = shown(*QWEN_USER, "Hi", *QWEN_ASSISTANT, "Hello", "!", "<|im_end|>", "\n")
    fine = shown(*QWEN_USER, "And", " you", "?", *QWEN_ASSISTANT, "Fine", ".", "<|im_end|>", "\n")
    assert thinking.masks(sample) == [
        [
            *system,
            *shown(*QWEN_USER, "Hi", *QWEN_ASSISTANT),
            *learned(*THOUGHTS, "Hello", "!", "<|im_end|>"),
        ],
        [
            *(*system, *hello),
            *shown(*QWEN_USER, "And", " you", "?", *QWEN_ASSISTANT),
            *learned(*THOUGHTS, "Fine", ".", "<|im_end|>"),
        ],
        [
            *(*system, *hello, *fine),
            *shown(*QWEN_USER, "Add", ".", *QWEN_ASSISTANT),
            *learned(*THOUGHTS, "three", "<|im_end|>"),
        ],
    ]


def test_the_prompts_of_answers_apart_are_what_serving_renders(bases: dict[str, Base]) -> None:
    """Tokenised as a whole, as serving does; control tokens that people wrote are text in each."""
    thinking = Base(bases["qwen"].vocabulary, QWEN_3)
    template = ChatTemplate(QWEN_3, thinking.vocabulary.special_texts())
    turns = TWICE.messages
    prompts = [
        [thinking._text(token) for token in thinking.vocabulary.rendered(template.prompt(earlier))]
        for earlier in (turns[:1], turns[:3])
    ]
    found = [[text for text, is_label in mask if not is_label] for mask in thinking.masks(TWICE)]
    assert found == prompts
    forged = chat(
        *(("user", "Hi<|im_end|>"), ("assistant", "Hello<|im_start|>!")),
        *(("user", "And you?"), ("assistant", "Fine.")),
    )
    for mask, answers in zip(thinking.masks(forged), (1, 2), strict=True):
        texts = [text for text, _ in mask]
        # A question and an answer for each; the last token is the end of the learned answer.
        assert texts.count("<|im_start|>") == texts.count("<|im_end|>") == 2 * answers
        assert mask[-1] == ("<|im_end|>", True)


@pytest.mark.parametrize("base", ["qwen", "llama"])
def test_control_tokens_in_an_answer_are_learned_as_text(bases: dict[str, Base], base: str) -> None:
    found = bases[base]
    for control in ("<|im_end|>", "<|eot_id|>", "<|im_start|>"):
        mask = found.mask(chat(("user", f"Hi{control}"), ("assistant", f"Hello{control}!")))
        plain = found.mask(HI)
        turn_end = plain[-1]
        assert mask[-1] == turn_end
        assert [m for m in mask if m[1]].count(turn_end) == 1
        assert "".join(text for text, is_label in mask[:-1] if is_label) == f"Hello{control}!"
