"""References to artifacts: a name, ``kind/name``, a digest, or at least eight digits of one.

Names are unique within a kind, so ``persona`` may be a dataset and an adapter: where the kind does
not follow from the command, ``adapter/persona`` says it. Pure.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from artifacts import hub_cache
from artifacts.digest import Digest, short
from artifacts.record import Kind
from controller.records import KIND_WORDS, CatalogueEntry
from protos.errors import InvalidRequest, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = re.compile(r"(?:sha256:)?(?P<digits>[0-9a-f]{8,64})")


def checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None or _DIGITS.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} cannot name an artifact.",
            why="A name has letters, digits, dots, hyphens and underscores, and does not look "
            "like a digest.",
            fix="Choose another one, such as gemma-3-1b-it.",
            field="name",
        )
    return name


def is_digest(reference: str) -> bool:
    match = _DIGITS.fullmatch(reference)
    return match is not None and reference.startswith("sha256:") and len(match["digits"]) == 64


def name_for(path: Path) -> str:
    """What a file or folder is called in the catalogue when nobody says."""
    if path.is_dir():
        stem = hub_cache.name_of(path.resolve())
    else:
        stem = Path(path.name.removesuffix(".zst")).stem
    name = _NOT_IN_NAMES.sub("-", stem).strip("-._") or "unnamed"
    return f"artifact-{name}" if _DIGITS.fullmatch(name) else name[:128]


def resolve(reference: str, kind: Kind | None, entries: Sequence[CatalogueEntry]) -> CatalogueEntry:
    """The one entry that is meant, of ``kind`` if given.

    Raises NotFound with near names, InvalidRequest when several are meant.
    """
    wanted, word = _split(reference, kind)
    candidates = [entry for entry in entries if wanted in (None, 0, entry.kind)]
    found = [entry for entry in candidates if entry.name == word] or _by_digits(candidates, word)
    if len({entry.digest for entry in found}) > 1:
        raise _ambiguous(reference, found)
    if not found:
        raise _missing(reference, wanted, candidates, entries)
    return found[0]


def _split(reference: str, kind: Kind | None) -> tuple[Kind | None, str]:
    """Kind and name of ``adapter/persona``."""
    word, slash, name = reference.partition("/")
    kinds = [found for found, text in KIND_WORDS.items() if text == word]
    return (kinds[0], name) if slash and kinds else (kind, reference)


def _by_digits(entries: Sequence[CatalogueEntry], text: str) -> list[CatalogueEntry]:
    match = _DIGITS.fullmatch(text)
    if match is None:
        return []
    return [e for e in entries if e.digest.startswith(f"sha256:{match['digits']}")]


def _ambiguous(reference: str, found: Sequence[CatalogueEntry]) -> InvalidRequest:
    meant = sorted({_full(entry) for entry in found})
    return InvalidRequest(
        f"{reference!r} can mean {' or '.join(meant)}.",
        fix=f"Write {meant[0]}, or more digits of the digest.",
        field="reference",
    )


def _full(entry: CatalogueEntry) -> str:
    return f"{KIND_WORDS[entry.kind]}/{entry.name or short(Digest(entry.digest))}"


def _missing(
    reference: str,
    kind: Kind | None,
    candidates: Sequence[CatalogueEntry],
    entries: Sequence[CatalogueEntry],
) -> NotFound:
    word = KIND_WORDS[kind] if kind else "artifact"
    known = sorted({entry.name for entry in candidates if entry.name})
    near = difflib.get_close_matches(reference, known, n=3)
    other = next((entry for entry in entries if entry.name == reference), None)
    if near:
        fix = f"Did you mean {' or '.join(near)}?"
    elif other is not None:
        fix = f"The {KIND_WORDS[other.kind]} of that name is something else."
    elif known:
        shown = ", ".join(known[:10])
        fix = f"There is {shown}{' and more' if len(known) > 10 else ''}."
    else:
        fix = f"There is no {word} at all yet: add one first."
    return NotFound(f"The fleet has no {word} {reference!r}.", fix=fix, field="reference")
