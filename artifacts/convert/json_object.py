"""A JSON object of somebody else's file, read with types and with errors that name file and key.

Configurations come from model hubs: a key may be missing, null, or of another type than the last
release wrote. What is read here is checked here, so that the code behind works on plain values.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from protos.errors import InvalidRequest, NotFound

T = TypeVar("T")

# tokenizer.json of a 262,144-word vocabulary is 33 MB; nothing honest is near the bound.
MAX_FILE_BYTES = 256 << 20
# Of whatever somebody else's program wrote.
_FIX = "Use the file as its maker wrote it: download or save it again."
# GGUF stores such settings as uint32 and float32.
MAX_INTEGER = (1 << 32) - 1
MAX_NUMBER = 3.4e38


class JsonObject:
    """``where`` names the object in messages: a path, and the keys that led into it."""

    def __init__(self, where: str, values: Mapping[str, object]) -> None:
        self.where = where
        self._values = values

    @classmethod
    def read(cls, path: Path) -> "JsonObject":
        if not path.is_file():
            raise NotFound(f"{path} is missing.", fix="Give a whole folder, as the hub has it.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB.", fix=_FIX)
        return cls.parse(str(path), path.read_bytes())

    @classmethod
    def parse(cls, where: str, text: bytes) -> "JsonObject":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{where} is not JSON.", why=f"{error}.", fix=_FIX) from error
        return cls(where, _checked(values, dict, where))

    def with_defaults(self, defaults: Mapping[str, object]) -> "JsonObject":
        """Where a key is absent or null, what ``defaults`` have for it."""
        present = {key: value for key, value in self._values.items() if value is not None}
        return JsonObject(self.where, {**defaults, **present})

    def __contains__(self, key: str) -> bool:
        """Present and not null, which the files use alike."""
        return self._values.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def raw(self, key: str) -> object:
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise InvalidRequest(
                f"{self.where}: `{key}` is {value!r}, not a whole number.", fix=_FIX
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidRequest(f"{self.where}: `{key}` is {value!r}, not a number.", fix=_FIX)
        if not abs(value) < MAX_NUMBER:  # NaN is not below it either
            raise InvalidRequest(
                f"{self.where}: `{key}` is {value!r}, which no float32 holds.", fix=_FIX
            )
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = _checked(self._get(key, default), str, f"{self.where}: `{key}`")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
            raise InvalidRequest(f"{self.where}: `{key}` is not Unicode.", fix=_FIX) from error
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        return _checked(self._get(key, default), bool, f"{self.where}: `{key}`")

    def array(self, key: str) -> list[object]:
        """Empty when the key is absent."""
        return _checked(self._get(key, []), list, f"{self.where}: `{key}`")

    def whole_numbers(self, key: str) -> tuple[int, ...]:
        values = self.array(key)
        if not all(type(value) is int and value >= 0 for value in values):
            raise InvalidRequest(
                f"{self.where}: `{key}` is {values!r}, not whole numbers.", fix=_FIX
            )
        return tuple(value for value in values if isinstance(value, int))

    def child(self, key: str) -> "JsonObject":
        """Empty when the key is absent."""
        where = f"{self.where}: {key}"
        return JsonObject(where, _checked(self._get(key, {}), dict, where))

    def children(self, key: str) -> list["JsonObject"]:
        """The objects of an array."""
        where = f"{self.where}: {key}"
        return [JsonObject(where, _checked(item, dict, where)) for item in self.array(key)]

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise InvalidRequest(f"{self.where}: `{key}` is missing.", fix=_FIX)
        return value


def _checked(value: object, kind: type[T], where: str) -> T:
    if not isinstance(value, kind):
        raise InvalidRequest(
            f"{where} is a {type(value).__name__}, not a {kind.__name__}.", fix=_FIX
        )
    return value
