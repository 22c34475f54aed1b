"""``nanofleet.json``: where an adapter comes from and what it fits.

PEFT's own files say neither which bytes of a base an adapter is for nor with which tokenizer and
data it was trained. An adapter on another base is not an error that anything would notice: the
model only talks worse. So the digests travel with it. It fits the base that it is for, and other
files that were made of the same original weights with the same tokenizer (``check_sibling``).

A job trained it, and its record is there; or it was imported, and the name of its folder is. In
version 1, from before there were imports, the keys of the record stand beside the others.
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

FORMAT_VERSION = 2
_FLAT_VERSION = 1

Json: TypeAlias = bool | int | float | str | list["Json"] | Mapping[str, "Json"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What a job did. ``recipe`` is its training part as it was run, with all its stages;
    ``dataset_digest`` is the last one's. Losses are means over one step."""

    job_id: str
    dataset_digest: Digest
    recipe: Mapping[str, Json]
    first_loss: float
    final_loss: float
    steps: int
    trained_tokens: int
    energy_j: float | None
    agent_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterManifest:
    """``base_digest`` is the base that the adapter was trained on or imported for;
    ``source_digest`` is the base's, None where that did not say. ``created_utc_ns``: when it was
    trained, or its folder's weights were written. ``training`` is None for an imported adapter, and
    ``imported_from``, the name of its folder, for a trained one."""

    name: str
    base_digest: Digest
    tokenizer_digest: Digest
    rank: int
    alpha: float
    targets: tuple[str, ...]
    created_utc_ns: int
    source_digest: Digest | None = None
    training: TrainingRecord | None = None
    imported_from: str | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """Sorted and indented, for people and for equal digests."""
        fields = dataclasses.asdict(self)
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "AdapterManifest":
        """Raises InvalidRequest that names the wrong key. Unknown keys are of a later version."""
        fields = _Fields.parse(content)
        version = fields.integer("format_version")
        if version not in (_FLAT_VERSION, FORMAT_VERSION):
            raise InvalidRequest(
                f"The adapter's nanofleet.json has format version {version}.",
                why=f"This nanofleet reads versions {_FLAT_VERSION} and {FORMAT_VERSION}.",
                fix="Update nanofleet here, or make the adapter again with this version.",
            )
        training = fields if version == _FLAT_VERSION else fields.child_or_none("training")
        return cls(
            name=fields.text("name"),
            base_digest=fields.digest("base_digest"),
            tokenizer_digest=fields.digest("tokenizer_digest"),
            rank=fields.integer("rank"),
            alpha=fields.number("alpha"),
            targets=fields.texts("targets"),
            created_utc_ns=fields.integer("created_utc_ns"),
            source_digest=fields.digest_or_none("source_digest"),
            training=None if training is None else _training(training),
            imported_from=fields.text("imported_from") if training is None else None,
        )


def _training(fields: "_Fields") -> TrainingRecord:
    return TrainingRecord(
        job_id=fields.text("job_id"),
        dataset_digest=fields.digest("dataset_digest"),
        recipe=fields.mapping("recipe"),
        first_loss=fields.number("first_loss"),
        final_loss=fields.number("final_loss"),
        steps=fields.integer("steps"),
        trained_tokens=fields.integer("trained_tokens"),
        energy_j=fields.number_or_none("energy_j"),
        agent_version=fields.text("agent_version"),
    )


def check_sibling(manifest: AdapterManifest, base_digest: Digest, base: BaseModel) -> None:
    """Raises WrongBase unless ``base``, which is not what the adapter was made for, was made of the
    same original weights, with the same tokenizer and chat template."""
    source, trained_source = base.source_digest, manifest.source_digest
    made, again = ("trained on", "train it again on")
    if manifest.training is None:
        made, again = ("imported for", "import it again for")
    trained = f"It was {made} {digests.short(manifest.base_digest)}"
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
        fix=f"Use it with that base model, or {again} this one.",
        field="adapter_digest",
    )


class _Fields:
    """The keys of a JSON object, each taken with the type that it must have."""

    def __init__(self, fields: Mapping[str, Json]) -> None:
        self._fields = fields

    @classmethod
    def parse(cls, content: bytes) -> "_Fields":
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _invalid("is not valid JSON", str(error)) from None
        if not isinstance(fields, dict):
            raise _invalid("is not a JSON object", "")
        return cls(fields)

    def child_or_none(self, key: str) -> "_Fields | None":
        return None if self._required(key) is None else _Fields(self.mapping(key))

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
