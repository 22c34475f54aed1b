"""What a batch generation reads: the lines of a dataset as prompts, with or without answers.

A dataset that trains has an answer in each line. Here it may be missing: a line is a conversation,
``{"messages"}``, or an object of texts, and its keys are the fields that a template may name. So
every dataset for training can be asked again, and questions need not be dressed up as a dataset.

Two things are as training has them: the ``prompt`` of an instruction is the instruction with its
input, and an ``input`` that is not there is empty.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import dataset_file, sample_line
from artifacts.sample_line import Problem
from artifacts.samples import ASSISTANT, Message
from protos.errors import InvalidDataset

MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class PromptLine:
    """Either ``messages``, of which the last is the user's, or ``fields``."""

    line: int
    fields: Mapping[str, str]
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptsReport:
    """``fields`` are those that every line has, in the order of the first one; ``rare_fields``
    those that only some have."""

    prompts: int
    characters: int
    are_conversations: bool
    fields: tuple[str, ...]
    rare_fields: tuple[str, ...] = ()


def check(path: Path, *, name: str = "", needed: Collection[str] = ()) -> PromptsReport:
    """Reads all of it; InvalidDataset lists up to 20 lines that are no prompts, or lack a field
    that is ``needed``."""
    problems: list[str] = []
    prompts, characters, first = 0, 0, None
    common: dict[str, None] = {}
    every: dict[str, None] = {}
    called = name or path.name
    for found in _lines(path, called):
        try:
            prompt = _parsed(found, first, needed)
        except Problem as problem:
            problems.append(f"{called}:{found.number}: {problem}")
            if len(problems) == MAX_PROBLEMS:
                break
            continue
        if first is None:
            first, common = prompt, dict.fromkeys(prompt.fields)
        common = {field: None for field in common if field in prompt.fields}
        every.update(dict.fromkeys(prompt.fields))
        prompts += 1
        characters += _characters(prompt)
    if problems:
        raise InvalidDataset("\n".join(problems))
    if first is None:
        raise InvalidDataset(
            f"{called} has no lines, so there is nothing to answer.",
            fix="Write one JSON object in each line.",
        )
    rare = tuple(field for field in every if field not in common)
    return PromptsReport(prompts, characters, bool(first.messages), tuple(common), rare)


def read(path: Path, *, name: str = "", needed: Collection[str] = ()) -> Iterator[PromptLine]:
    """The prompts in order; InvalidDataset at the first line that ``check`` would refuse."""
    first, called = None, name or path.name
    for found in _lines(path, called):
        try:
            prompt = _parsed(found, first, needed)
        except Problem as problem:
            raise InvalidDataset(f"{called}:{found.number}: {problem}") from None
        first = first or prompt
        yield prompt


def check_fields(
    path: Path, report: PromptsReport, needed: Collection[str], *, name: str = ""
) -> None:
    """Raises InvalidDataset when a line of ``path``, of which ``report`` is, lacks a field that a
    template needs; in one sentence when all of them do."""
    known = (*report.fields, *report.rare_fields)
    for field in needed:
        if field not in known:
            raise InvalidDataset(
                f"The template names {{{field}}}, which no line of {name or path.name} has as a"
                " text.",
                fix=_meant(field, known),
                reason="UNKNOWN_FIELD",
                field="template",
            )
    if any(field in report.rare_fields for field in needed):
        check(path, name=name, needed=needed)


def _meant(field: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
    return f"Did you mean {{{near[0]}}}?" if near else f"There are: {', '.join(known) or 'none'}."


def _lines(path: Path, called: str) -> Iterator[dataset_file.Line]:
    return dataset_file.lines(path, called)


def _parsed(
    found: dataset_file.Line, first: PromptLine | None, needed: Collection[str]
) -> PromptLine:
    try:
        text = found.content.decode()
    except UnicodeDecodeError as error:
        raise Problem(f"byte {error.start + 1} of the line is not UTF-8. Save it so.") from None
    messages, fields = sample_line.parse_prompt(text)
    prompt = PromptLine(found.number, _completed(fields), _asked(messages))
    if first is not None and bool(first.messages) != bool(prompt.messages):
        raise Problem(
            f"this line is {_kind(prompt)}, but line {first.line} is {_kind(first)}. "
            "Keep one shape in a file."
        )
    for field in needed:
        if field not in prompt.fields:
            raise Problem(
                f"the template names {{{field}}}, which this line does not have as a text. "
                f"{_meant(field, list(prompt.fields))}"
            )
    return prompt


def _asked(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the answer that is there already."""
    return messages[:-1] if messages and messages[-1].role == ASSISTANT else messages


def _completed(fields: Mapping[str, str]) -> Mapping[str, str]:
    if "instruction" not in fields:
        return fields
    given = fields.get("input", "")
    prompt = fields["instruction"] + (f"\n\n{given}" if given else "")
    return {"prompt": prompt, "input": "", **fields}


def _characters(prompt: PromptLine) -> int:
    texts = [message.content for message in prompt.messages] or list(prompt.fields.values())
    return sum(map(len, texts))


def _kind(prompt: PromptLine) -> str:
    return "a conversation" if prompt.messages else "an object of texts"
