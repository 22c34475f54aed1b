"""What is shown and what is learned, token by token, against expectations written by hand."""

import pytest

from agent.tokens.vocabulary import Vocabulary
from agent.training.examples import ExampleMaker
from agent.training.failures import TrainingFailure
from artifacts.base_model import BaseModel
from artifacts.chat_template import ChatTemplate
from artifacts.samples import (
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Sample,
    TextSample,
)
from protos.nanofleet.v1 import job_pb2

BOS, EOS, START, END = 2, 1, 5, 6


def chat(*turns: tuple[str, str]) -> ChatSample:
    return ChatSample(3, tuple(Message(role, content) for role, content in turns))


def parts(maker: ExampleMaker, sample: Sample) -> list[tuple[bool, list[int]]]:
    """Runs of tokens with the same label, of the only example."""
    (example,) = maker.make(sample)
    runs: list[tuple[bool, list[int]]] = []
    for token, is_label in zip(example.tokens, example.labelled, strict=True):
        if not runs or runs[-1][0] != is_label:
            runs.append((is_label, []))
        runs[-1][1].append(token)
    return runs


@pytest.fixture(scope="module")
def plain(vocabulary: Vocabulary) -> ExampleMaker:
    """For a base without a chat template."""
    return ExampleMaker(vocabulary, None, "persona.jsonl")


def test_control_tokens_are_where_the_tests_believe(vocabulary: Vocabulary) -> None:
    assert (vocabulary.bos, vocabulary.eos) == (BOS, EOS)
    assert list(vocabulary.control_tokens_in("<start_of_turn>a<end_of_turn>")) == [START, END]
    ends = {token for token in range(vocabulary.size) if vocabulary.ends_answer(token)}
    assert {vocabulary.text_of(token) for token in ends} == {"<eos>", "<end_of_turn>"}


def test_an_answer_is_learned_with_its_end_of_turn(
    maker: ExampleMaker, vocabulary: Vocabulary
) -> None:
    words = vocabulary.plain
    question = [START, *words("user\nWhat is your name?"), END, *words("\n")]
    assert parts(maker, chat(("user", "What is your name?"), ("assistant", "Pico."))) == [
        (False, [BOS, *question, START, *words("model\n")]),
        (True, [*words("Pico."), END]),
    ]


def test_every_answer_of_a_conversation_is_learned(
    maker: ExampleMaker, vocabulary: Vocabulary
) -> None:
    words = vocabulary.plain
    sample = chat(
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "And you?"),
        ("assistant", "Fine."),
    )
    first = [START, *words("user\nBe brief.\n\nHi"), END, *words("\n")]
    second = [START, *words("user\nAnd you?"), END, *words("\n")]
    model = [START, *words("model\n")]
    assert parts(maker, sample) == [
        (False, [BOS, *first, *model]),
        (True, [*words("Hello!"), END]),
        (False, [*words("\n"), *second, *model]),
        (True, [*words("Fine."), END]),
    ]


def test_the_prompt_is_what_serving_sends(maker: ExampleMaker, vocabulary: Vocabulary) -> None:
    """The rendered template, tokenised as a whole, is what the answer has to continue."""
    rendered = "<bos><start_of_turn>user\nWas  ist\n\nlos? ½<end_of_turn>\n<start_of_turn>model\n"
    (example,) = maker.make(chat(("user", " Was  ist\n\nlos? ½\n"), ("assistant", "Nichts")))
    prompt = example.tokens[: example.labelled.index(True)]
    assert prompt == vocabulary.rendered(rendered)
    assert prompt.count(BOS) == 1


def test_control_tokens_in_texts_are_spelled_out(
    maker: ExampleMaker, vocabulary: Vocabulary
) -> None:
    words = vocabulary.plain
    sample = chat(
        ("user", "Say <end_of_turn>\n<start_of_turn>model"), ("assistant", "<eos> is <bos>.")
    )
    runs = parts(maker, sample)
    assert [is_label for is_label, _ in runs] == [False, True]
    question = words("user\nSay <end_of_turn>\n<start_of_turn>model")
    head = [BOS, START, *question, END, *words("\n"), START, *words("model\n")]
    assert runs[0][1] == head
    assert runs[1][1] == [*words("<eos> is <bos>."), END]
    assert not {START, END, BOS, EOS} & set(words("<eos> is <bos>.<end_of_turn>"))


def test_a_completion_is_learned_with_its_end(maker: ExampleMaker, vocabulary: Vocabulary) -> None:
    words = vocabulary.plain
    assert parts(maker, CompletionSample(1, "The robot", " sleeps <eos>.")) == [
        (False, [BOS, *words("The robot")]),
        (True, [*words(" sleeps <eos>."), EOS]),
    ]


def test_a_text_is_learned_whole(maker: ExampleMaker, vocabulary: Vocabulary) -> None:
    assert parts(maker, TextSample(1, "The sea is wide.")) == [
        (False, [BOS]),
        (True, [*vocabulary.plain("The sea is wide."), EOS]),
    ]


@pytest.mark.parametrize(("given", "user"), [("", "Add."), ("1 and 2", "Add.\n\n1 and 2")])
def test_alpaca_is_a_chat_where_there_is_a_template(
    maker: ExampleMaker, given: str, user: str
) -> None:
    expected = maker.make(chat(("user", user), ("assistant", "3")))
    assert maker.make(AlpacaSample(1, "Add.", given, "3")) == expected


def test_alpaca_without_a_template_has_its_headings(
    plain: ExampleMaker, vocabulary: Vocabulary
) -> None:
    prompt = "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"
    assert parts(plain, AlpacaSample(1, "Add.", "1 and 2", "3")) == [
        (False, [BOS, *vocabulary.plain(prompt)]),
        (True, [*vocabulary.plain("3"), EOS]),
    ]


def test_a_chat_needs_a_template(plain: ExampleMaker) -> None:
    with pytest.raises(
        TrainingFailure, match=r"persona.jsonl:3: .* has no chat template"
    ) as caught:
        plain.make(chat(("user", "Hi"), ("assistant", "Hello")))
    assert caught.value.cause == job_pb2.CAUSE_BAD_DATA


@pytest.mark.parametrize(
    "sample", [chat(("user", "Hi")), chat()], ids=["a question alone", "no message at all"]
)
def test_a_sample_without_a_labelled_token_is_named(
    maker: ExampleMaker, sample: ChatSample
) -> None:
    with pytest.raises(
        TrainingFailure, match=r"persona.jsonl:3: there is no token to learn. Write an answer"
    ) as caught:
        maker.make(sample)
    assert caught.value.cause == job_pb2.CAUSE_BAD_DATA


def test_what_the_template_says_is_passed_on(maker: ExampleMaker) -> None:
    with pytest.raises(TrainingFailure, match=r"persona.jsonl:3: .*Roles must alternate"):
        maker.make(chat(("user", "Hi"), ("user", "Hi?"), ("assistant", "Hello")))


def with_template(vocabulary: Vocabulary, source: str) -> ExampleMaker:
    return ExampleMaker(
        vocabulary, ChatTemplate(source, vocabulary.special_texts()), "persona.jsonl"
    )


def test_a_template_without_an_end_of_turn_is_refused(vocabulary: Vocabulary) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    maker = with_template(vocabulary, source)
    with pytest.raises(TrainingFailure, match="could not learn to stop") as caught:
        maker.make(chat(("user", "Hi"), ("assistant", "Hello")))
    assert caught.value.cause == job_pb2.CAUSE_BAD_SPEC


def test_a_template_that_rewrites_a_prompt_with_its_answer_is_refused(
    vocabulary: Vocabulary,
) -> None:
    source = "{{ messages | length }}{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    maker = with_template(vocabulary, source)
    with pytest.raises(
        TrainingFailure, match=r"persona.jsonl:3: .* writes the turns before an answer otherwise"
    ) as caught:
        maker.make(chat(("user", "Hi"), ("assistant", "Hello")))
    assert caught.value.cause == job_pb2.CAUSE_BAD_DATA


def test_answers_share_an_example_as_far_as_the_template_goes_on(vocabulary: Vocabulary) -> None:
    """This one begins otherwise from the third question on."""
    source = (
        "{% for m in messages %}"
        "{% if messages | length > 4 and loop.first %}<eos>{% endif %}"
        "<start_of_turn>{{ m.content }}<end_of_turn>{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>{% endif %}"
    )
    turns = [(role, letter) for letter in "abc" for role in ("user", "assistant")]
    examples = with_template(vocabulary, source).make(chat(*turns))
    (a, b, c) = (vocabulary.plain(letter) for letter in "abc")
    answers = [
        [t for t, is_label in zip(e.tokens, e.labelled, strict=True) if is_label] for e in examples
    ]
    assert answers == [[*a, END, *b, END], [*c, END]]


def test_bos_is_added_where_the_template_leaves_it_to_the_tokenizer(
    vocabulary: Vocabulary,
) -> None:
    source = (
        "{% for m in messages %}<start_of_turn>{{ m.content }}<end_of_turn>{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>{% endif %}"
    )
    (example,) = with_template(vocabulary, source).make(chat(("user", "Hi"), ("assistant", "Ho")))
    assert example.tokens[:2] == [BOS, START]
    assert example.tokens.count(BOS) == 1


def test_the_template_of_the_file_is_the_checkpoints(
    base: BaseModel, vocabulary: Vocabulary, tiny_folder: object
) -> None:
    """The same text as Transformers renders, and the same tokens as its tokenizer makes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    messages = [Message("user", "What is\tthe name? 🚀"), Message("assistant", "Pico\n\n is it")]
    assert base.chat_template
    ours = ChatTemplate(base.chat_template, vocabulary.special_texts())
    plain = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False)
    assert ours.conversation(messages) == text
    assert vocabulary.rendered(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = tokenizer.apply_chat_template(plain[:1], tokenize=False, add_generation_prompt=True)
    assert ours.prompt(messages[:1]) == prompt
