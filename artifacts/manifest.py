"""``nanofleet.json``: where an adapter comes from and what it fits.

PEFT's own files say neither on which bytes of a base the adapter was trained nor with which
tokenizer and data. An adapter on another base is not an error that anything would notice: the model
only talks worse. So the digests travel with it. It fits the bytes that it was trained on, and other
files that were made of the same original weights with the same tokenizer (``check_sibling``).
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from artifacts import digest as digests
from artifacts.base_model import BaseModel
from artifacts.digest import Digest
from protos.errors import InvalidRequest, WrongBase

FORMAT_VERSION = 1

Json: TypeAlias = bool | int | float | str | list["Json"] | Mapping[str, "Json"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterManifest:
    """``recipe`` is the job's training part as it was run, with all its stages; ``dataset_digest``
    is the last one's. Losses are means over one step. ``source_digest`` is the base's, None where
    that did not say."""

    name: str
    base_digest: Digest
    dataset_digest: Digest
    tokenizer_digest: Digest
    job_id: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    recipe: Mapping[str, Json]
    first_loss: float
    final_loss: float
    steps: int
    trained_tokens: int
    energy_j: float | None
    created_utc_ns: int
    agent_version: str
    source_digest: Digest | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """Sorted and indented, for people and for equal digests."""
        fields = dataclasses.asdict(self)
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "AdapterManifest":
        """Raises InvalidRequest that names the wrong key. Unknown keys are of a later version."""
        fields = _Fields(content)
        version = fields.integer("format_version")
        if version != FORMAT_VERSION:
            raise InvalidRequest(
                f"The adapter's nanofleet.json has format version {version}.",
                why=f"This nanofleet reads version {FORMAT_VERSION}.",
                fix="Update nanofleet here, or train the adapter again.",
            )
        return cls(
            name=fields.text("name"),
            base_digest=fields.digest("base_digest"),
            dataset_digest=fields.digest("dataset_digest"),
            tokenizer_digest=fields.digest("tokenizer_digest"),
            job_id=fields.text("job_id"),
            rank=fields.integer("rank"),
            alpha=fields.number("alpha"),
            targets=fields.texts("targets"),
            recipe=fields.mapping("recipe"),
            first_loss=fields.number("first_loss"),
            final_loss=fields.number("final_loss"),
            steps=fields.integer("steps"),
            trained_tokens=fields.integer("trained_tokens"),
            energy_j=fields.number_or_none("energy_j"),
            created_utc_ns=fields.integer("created_utc_ns"),
            agent_version=fields.text("agent_version"),
            source_digest=fields.digest_or_none("source_digest"),
        )


def check_sibling(manifest: AdapterManifest, base_digest: Digest, base: BaseModel) -> None:
    """Raises WrongBase unless ``base``, which is not what the adapter was trained on, was made of
    the same original weights, with the same tokenizer and chat template."""
    source, trained_source = base.source_digest, manifest.source_digest
    trained = f"It was trained on {digests.short(manifest.base_digest)}"
    if source is None or trained_source is None:
        why = f"{trained}."
    elif source != trained_source:
        why = (
            f"{trained}, which was made of the original weights {digests.short(trained_source)}; "
            f"this one was made of {digests.short(source)}."
        )
    elif base.tokenizer_digest != manifest.tokenizer_digest:
        why = f"{trained}, which has the same weights with another tokenizer or chat template."
    else:
        return
    raise WrongBase(
        f"The adapter {manifest.name!r} does not fit the base model {digests.short(base_digest)}.",
        why=why,
        fix="Use it with that base model, or train it again on this one.",
        field="adapter_digest",
    )


class _Fields:
    """The keys of a JSON object, each taken with the type that it must have."""

    def __init__(self, content: bytes) -> None:
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _invalid("is not valid JSON", str(error)) from None
        if not isinstance(fields, dict):
            raise _invalid("is not a JSON object", "")
        self._fields: dict[str, Json] = fields

    def text(self, key: str) -> str:
        value = self._required(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._required(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list of texts")
        found = tuple(item for item in value if isinstance(item, str))
        if len(found) != len(value):
            raise self._wrong(key, "a list of texts")
        return found

    def digest(self, key: str) -> Digest:
        return digests.parse(self.text(key), f"nanofleet.json: {key}")

    def digest_or_none(self, key: str) -> Digest | None:
        """None also where the key is missing: an older version did not write it."""
        return None if self._fields.get(key) is None else self.digest(key)

    def integer(self, key: str) -> int:
        value = self._required(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        value = self._required(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._wrong(key, "a finite number")
        return number

    def number_or_none(self, key: str) -> float | None:
        return None if self._required(key) is None else self.number(key)

    def mapping(self, key: str) -> Mapping[str, Json]:
        value = self._required(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return value

    def _required(self, key: str) -> Json:
        if key not in self._fields:
            raise _invalid(f"has no {key}", "")
        return self._fields[key]

    def _wrong(self, key: str, wanted: str) -> InvalidRequest:
        return _invalid(f"has a wrong {key}", f"It must be {wanted}.")


def _invalid(what: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The adapter's nanofleet.json {what}.",
        why=why,
        fix="Use an adapter as nanofleet packed it.",
        reason="INVALID_ADAPTER",
    )
