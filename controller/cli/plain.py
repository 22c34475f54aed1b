"""Protobuf messages as plain dictionaries, for JSON and YAML.

``google.protobuf.json_format`` writes 64-bit integers as strings and drops whatever equals its
default, so that a reader cannot tell zero from absent. Here integers are numbers, every field is
there, what is absent is null, and an enum is its short name: ``JOB_STATE_RUNNING`` is ``running``.
Of a oneof only the member that is set appears.
"""

from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

Plain = bool | int | float | str | list["Plain"] | dict[str, "Plain"] | None


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """``running`` for JOB_STATE_RUNNING; the number itself when this version does not know it."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    return str(value.name).removeprefix(_prefix(enum)).lower()


def message(source: Message) -> dict[str, Plain]:
    return dict(_fields(source))


def _fields(source: Message) -> Iterator[tuple[str, Plain]]:
    for field in source.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        is_choice = oneof is not None and len(oneof.fields) > 1
        if field.has_presence and not source.HasField(field.name):
            if not is_choice:
                yield field.name, None
            continue
        yield field.name, _value(cast(FieldDescriptor, field), getattr(source, field.name))


def _value(field: FieldDescriptor, value: Any) -> Plain:
    if not field.is_repeated:
        return _single(field, value)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _single(entry, value[key]) for key in sorted(value)}
    return [_single(field, item) for item in value]


def _single(field: FieldDescriptor, value: Any) -> Plain:
    if isinstance(value, Message):
        return message(value)
    if isinstance(value, bytes):
        return value.hex()
    if field.enum_type is not None:
        return enum_name(field.enum_type, int(value))
    scalar: bool | int | float | str = value
    return scalar


def _prefix(enum: EnumDescriptor) -> str:
    """What all names of an enum begin with: "JOB_STATE_" of JOB_STATE_UNSPECIFIED."""
    zero = str(enum.values_by_number[0].name)
    return zero.removesuffix("UNSPECIFIED") if zero.endswith("UNSPECIFIED") else ""
