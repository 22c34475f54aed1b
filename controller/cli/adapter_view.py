"""How adapters are listed: what each is for, how large it is, and whence it comes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controller.cli import artifact_view, units
from controller.cli.output import Table
from controller.cli.plain import Plain

if TYPE_CHECKING:
    from controller import CatalogueEntry

_EMPTY = (
    "The store has no adapter. Fetch a job's with `nanofleet job result JOB`, or add one with "
    "`nanofleet adapter import FOLDER --base MODEL`."
)


def table(
    entries: "Sequence[CatalogueEntry]", bases: Mapping[str, str], jobs: Mapping[str, str]
) -> Table:
    """``bases``: names by digest; ``jobs``: names by id."""
    rows = [
        [
            entry.name or artifact_view.short(entry.digest),
            base_of(entry, bases) or artifact_view.short(str(entry.details["base_digest"])),
            str(entry.details["rank"]),
            units.size(entry.size_bytes),
            _whence(entry, jobs),
            units.stamp(_created_utc_ns(entry)),
        ]
        for entry in entries
    ]
    return Table(("NAME", "BASE", "RANK", "SIZE", "FROM", "DATE"), rows, _EMPTY)


def as_plain(entry: "CatalogueEntry", bases: Mapping[str, str]) -> dict[str, Plain]:
    return {**artifact_view.as_plain(entry), "base": base_of(entry, bases)}


def base_of(entry: "CatalogueEntry", bases: Mapping[str, str]) -> str | None:
    """The name of its base; None when that is not in the fleet's store, or has no name there."""
    return bases.get(str(entry.details["base_digest"])) or None


def _whence(entry: "CatalogueEntry", jobs: Mapping[str, str]) -> str:
    job_id, folder = entry.details.get("job_id"), entry.details.get("imported_from")
    if job_id is not None:
        return f"job {jobs.get(str(job_id), job_id)}"
    return f"folder {folder}"


def _created_utc_ns(entry: "CatalogueEntry") -> int:
    """0: the entry was made by a version that did not note it."""
    created = entry.details.get("created_utc_ns")
    return created if isinstance(created, int) else 0
