"""One line of a dataset: parsed, or refused with what to do about it.

People write these lines by hand, export them from spreadsheets or generate them with a model, and a
trainer that skips what it does not understand learns something else than was meant. So a line is
exactly one of the four shapes, or it is a Problem that says what to do. ``conversations`` of
ShareGPT, ``model`` for ``assistant`` and the like are recognised, to give a better answer.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping

from artifacts.samples import (
    ASSISTANT,
    SYSTEM,
    USER,
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Sample,
    TextSample,
)

_ROLES = (SYSTEM, USER, ASSISTANT)
_OTHER_NAMES = {
    "model": ASSISTANT,
    "bot": ASSISTANT,
    "gpt": ASSISTANT,
    "ai": ASSISTANT,
    "human": USER,
    "developer": SYSTEM,
}
_QUOTED_CHARACTERS = 40


class Problem(Exception):
    """What is wrong with a line, and what to do, as one text without the line's number."""


def parse(text: str, line: int) -> Sample:
    """The sample in one line; raises Problem."""
    fields = _object(text)
    for key, make in _MAKERS.items():
        if key in fields:
            return make(fields, line)
    if "conversations" in fields:
        raise Problem(
            'this is the ShareGPT shape. Rename "conversations" to "messages", "from" to "role" '
            'and "value" to "content".'
        )
    if not fields:
        raise Problem("the object is empty. Fill it in or remove the line.")
    raise Problem(
        f"the keys {_listed(fields)} are no known shape. Use one of: "
        '{"messages": […]}, {"instruction", "input", "output"}, {"prompt", "completion"}, {"text"}.'
    )


def parse_prompt(text: str) -> tuple[tuple[Message, ...], Mapping[str, str]]:
    """What is asked in a line that need not have an answer: a conversation, or the texts of an
    object by their keys, whatever else is in it; the other one is empty. Raises Problem."""
    fields = _object(text)
    if "messages" not in fields:
        if not fields:
            raise Problem("the object is empty. Fill it in or remove the line.")
        return (), {key: _text(fields, key) for key in fields if isinstance(fields[key], str)}
    messages = _messages(fields)
    is_answered = messages[-1].role == ASSISTANT
    _check_order(messages if is_answered else (*messages, Message(ASSISTANT, "to come")))
    return messages, {}


def _object(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise Problem(_explained(error, text)) from None
    except (ValueError, RecursionError):
        raise Problem("the JSON has a number or a nesting beyond any use. Fix the line.") from None
    if isinstance(value, list):
        raise Problem(
            "the line is a JSON array. JSONL has one object in each line: "
            "`jq -c '.[]' data.json > data.jsonl` makes it from an array."
        )
    if not isinstance(value, dict):
        raise Problem(f"the line is {_shortened(text)}, not a JSON object {{…}}.")
    return value


def _explained(error: json.JSONDecodeError, text: str) -> str:
    if text.strip() in ("[", "{"):
        return (
            "this is JSON over several lines. JSONL has one whole object in each line: "
            "`jq -c '.[]' data.json > data.jsonl` makes it from an array."
        )
    if text.rstrip().endswith("},"):
        return "the line ends with a comma. Remove it: lines of JSONL are not joined by commas."
    near = _shortened(text[max(0, error.pos - 10) :])
    return f"broken JSON at column {error.colno}: {error.msg}, near {near}. Fix the line."


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(f"the key {_shortened(twice)} is there twice. Keep one.")
    return fields


def _chat(fields: Mapping[str, object], line: int) -> ChatSample:
    messages = _messages(fields)
    _check_order(messages)
    return ChatSample(line, messages)


def _messages(fields: Mapping[str, object]) -> tuple[Message, ...]:
    _only_keys(fields, ("messages",))
    entries = fields["messages"]
    if not isinstance(entries, list) or not entries:
        raise Problem('"messages" must be a list with at least a user and an assistant message.')
    return tuple(_message(entry, number) for number, entry in enumerate(entries, 1))


def _message(entry: object, number: int) -> Message:
    where = f"message {number}"
    if not isinstance(entry, dict):
        raise Problem(f'{where} must be an object {{"role", "content"}}.')
    _only_keys(entry, ("role", "content"), f"{where}: ")
    role = _text(entry, "role", f"{where}: ")
    if role not in _ROLES:
        raise Problem(f"{where}: the role {_shortened(role)} is unknown. {_role_advice(role)}")
    content = _text(entry, "content", f"{where}: ")
    if not content.strip():
        what = "the answer" if role == ASSISTANT else f"the {role}'s content"
        raise Problem(f"{where}: {what} is empty. Fill it in or remove the sample.")
    return Message(role, content)


def _role_advice(role: str) -> str:
    meant = _OTHER_NAMES.get(role.lower(), role.lower())
    close = difflib.get_close_matches(meant, _ROLES, n=1)
    return f"Did you mean {_shortened(close[0])}?" if close else "Use system, user or assistant."


def _check_order(messages: tuple[Message, ...]) -> None:
    roles = [message.role for message in messages]
    if ASSISTANT not in roles:
        raise Problem(
            "there is no assistant message, so there is nothing to learn. Add the answer."
        )
    turns = roles[1:] if roles[0] == SYSTEM else roles
    first = len(roles) - len(turns) + 1
    for number, role in enumerate(turns):
        wanted = ASSISTANT if number % 2 else USER
        if role != wanted:
            raise Problem(
                f"message {first + number} is from the {role}, but the {wanted}'s turn is next. "
                "The order is: system (optional), user, assistant, user, assistant, …"
            )
    if turns[-1] != ASSISTANT:
        raise Problem("the last message is not the assistant's. Add the answer, or remove it.")


def _alpaca(fields: Mapping[str, object], line: int) -> AlpacaSample:
    _only_keys(fields, ("instruction", "input", "output"))
    return AlpacaSample(
        line,
        instruction=_filled_text(fields, "instruction"),
        input=_text(fields, "input") if "input" in fields else "",
        output=_filled_text(fields, "output"),
    )


def _completion(fields: Mapping[str, object], line: int) -> CompletionSample:
    _only_keys(fields, ("prompt", "completion"))
    return CompletionSample(
        line,
        prompt=_filled_text(fields, "prompt"),
        completion=_filled_text(fields, "completion"),
    )


def _text_only(fields: Mapping[str, object], line: int) -> TextSample:
    _only_keys(fields, ("text",))
    return TextSample(line, _filled_text(fields, "text"))


def _only_keys(fields: Mapping[str, object], known: tuple[str, ...], where: str = "") -> None:
    for key in fields:
        if key not in known:
            close = difflib.get_close_matches(
                key, [name for name in known if name not in fields], 1
            )
            advice = f"Did you mean {_shortened(close[0])}?" if close else "Remove it."
            raise Problem(
                f"{where}the key {_shortened(key)} does not belong beside "
                f"{_listed(name for name in known if name in fields)}. {advice}"
            )


def _filled_text(fields: Mapping[str, object], key: str) -> str:
    text = _text(fields, key)
    if not text.strip():
        what = "the answer is empty" if key in ("output", "completion") else "there is no text"
        raise Problem(f'{what} ("{key}"). Fill it in or remove the line.')
    return text


def _text(fields: Mapping[str, object], key: str, where: str = "") -> str:
    if key not in fields:
        raise Problem(f'{where}the key "{key}" is missing. Add it.')
    value = fields[key]
    if not isinstance(value, str):
        raise Problem(f'{where}"{key}" must be a text in quotes, not {_kind(value)}.')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(
            f'{where}"{key}" has half a character (a lone \\ud800-\\udfff escape). '
            "Write the file again with whole characters."
        ) from None
    return value


def _kind(value: object) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _listed(keys: Iterable[str]) -> str:
    shown = [_shortened(key) for key in keys]
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")


def _shortened(text: str) -> str:
    """For a message: quoted, on one line, and no longer than a message should be."""
    short = text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


# By the key that tells the shape.
_MAKERS: Mapping[str, Callable[[Mapping[str, object], int], Sample]] = {
    "messages": _chat,
    "instruction": _alpaca,
    "prompt": _completion,
    "completion": _completion,
    "output": _alpaca,
    "text": _text_only,
}
