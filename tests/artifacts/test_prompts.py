"""Templates, and the lines that they are filled from."""

import json
from pathlib import Path

import pytest

from artifacts import prompts, template
from protos.errors import InvalidDataset, InvalidRequest


def written(folder: Path, *lines: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_template_names_fields_and_writes_braces_twice() -> None:
    text = '{a}, {b} and {a}: {{"json": true}}'
    assert template.fields_of(text) == ("a", "b")
    filled = template.rendered(text, {"a": "{b}", "b": "two", "c": "unused"})
    assert filled == '{b}, two and {b}: {"json": true}', "what a field holds is not read again"


@pytest.mark.parametrize("text", ["{", "}", "{a.b}", "{a!r}", "{a:>9}", "{}", "{0}", "{a b}"])
def test_what_is_no_template_says_how_one_is_written(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"a brace that is text is written twice") as caught:
        template.fields_of(text)
    assert caught.value.reason == "INVALID_TEMPLATE"


def test_any_object_of_texts_is_a_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "Who?", "id": 7}, {"question": "Where?", "hint": "sea"})
    assert [line.fields["question"] for line in prompts.read(path)] == ["Who?", "Where?"]
    report = prompts.check(path)
    assert (report.prompts, report.fields, report.rare_fields) == (2, ("question",), ("hint",))
    assert not report.are_conversations


def test_an_instruction_has_its_input_as_training_has_it(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Sing.", "output": "La."},
    )
    found = [(line.fields["prompt"], line.fields["input"]) for line in prompts.read(path)]
    assert found == [("Add.\n\n1 and 2", "1 and 2"), ("Sing.", "")]


def test_a_conversation_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    path = written(
        tmp_path, {"messages": turns}, {"messages": [*turns, {"role": "assistant", "content": "x"}]}
    )
    asked = [[message.role for message in line.messages] for line in prompts.read(path)]
    assert asked == [["system", "user", "assistant", "user"]] * 2


def test_without_lines_there_is_nothing_to_answer(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="has no lines, so there is nothing to answer"):
        prompts.check(written(tmp_path))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{}], "questions.jsonl:1: the object is empty."),
        ([{"a": "x"}, {"messages": [{"role": "user", "content": "x"}]}],
         "questions.jsonl:2: this line is a conversation, but line 1 is an object of texts."),
        ([{"messages": [{"role": "assistant", "content": "x"}]}],
         "questions.jsonl:1: message 1 is from the assistant, but the user's turn is next."),
        ([{"a": "\ud800"}], 'questions.jsonl:1: "a" has half a character'),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_named_with_its_line(
    tmp_path: Path, lines: list[object], said: str
) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(InvalidDataset) as caught:
        prompts.check(path)
    assert str(caught.value).startswith(said)
    with pytest.raises(InvalidDataset):
        assert list(prompts.read(path))


def test_a_field_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "Who?", "topic": "sea"}, {"question": "Where?"})
    report = prompts.check(path)
    prompts.check_fields(path, report, ["question"])
    with pytest.raises(InvalidDataset) as caught:
        prompts.check_fields(path, report, ["quesiton"])
    assert str(caught.value) == (
        "The template names {quesiton}, which no line of questions.jsonl has as a text."
        " Did you mean {question}?"
    )
    assert caught.value.reason == "UNKNOWN_FIELD"
    with pytest.raises(InvalidDataset, match=r"questions.jsonl:2: .*\{topic\}.* There are: quest"):
        prompts.check_fields(path, report, ["topic"])
