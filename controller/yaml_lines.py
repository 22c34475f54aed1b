"""YAML that remembers where each key stands, so that a mistake can be pointed at.

PyYAML's ``safe_load`` forgets lines and lets the second of two equal keys win in silence. This
composes the nodes first, refuses duplicates, notes the lines, and then builds plain values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from protos.errors import InvalidRequest, NotFound

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 10

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """``values`` is the top-level mapping; ``lines`` has the line of each key, from 1;
    an item of a list has its number as its key."""

    name: str
    values: Mapping[str, object]
    lines: Mapping[KeyPath, int]

    def place(self, key: KeyPath) -> str:
        """``finetune.yaml:7``, or the nearest key above it that has a line."""
        for end in range(len(key), 0, -1):
            if line := self.lines.get(key[:end]):
                return f"{self.name}:{line}"
        return self.name


def read(path: Path) -> Document:
    """Raises NotFound, or InvalidRequest for what is no YAML mapping with plain keys."""
    text, name = _text(path), path.name
    try:
        _refuse_tricks(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise _wrong(f"{place} is not YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise _wrong(f"{name} is not YAML: {error}.") from error
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(f"{name} is no mapping of keys to values.")
    lines: dict[KeyPath, int] = {}
    _note(node, (), lines, name)
    return Document(name, values, lines)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > _MAX_BYTES:
            raise _wrong(f"{path} is larger than 1 MiB: it is no job file.")
        return content.decode()
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", fix="Check the path.") from error
    except OSError as error:
        raise _wrong(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise _wrong(f"{path.name} is not UTF-8 text.") from error


def _refuse_tricks(text: str, name: str) -> None:
    """Aliases, of which a few lines can stand for gigabytes, and nesting without an end."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _wrong(f"{name} has an alias, `*{event.anchor}`: write the value out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _wrong(f"{name} is nested too deeply.")


def _note(node: yaml.MappingNode, above: KeyPath, lines: dict[KeyPath, int], name: str) -> None:
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise _wrong(f"{name}:{line} has a key that is no plain word.")
        here = (*above, key.value)
        if here in lines:
            raise _wrong(
                f"{name}:{line} repeats `{key.value}`, which stands in line {lines[here]}."
            )
        lines[here] = line
        _note_below(value, here, lines, name)


def _note_below(node: yaml.Node, above: KeyPath, lines: dict[KeyPath, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        _note(node, above, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            here = (*above, str(number))
            lines[here] = item.start_mark.line + 1
            _note_below(item, here, lines, name)


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest(
        what,
        fix="A job file looks like the one in docs/python-api.md.",
        reason="INVALID_JOB_FILE",
    )
