"""The fleet's own artifacts, and the names that people gave them, within a kind."""

import json
from collections.abc import Mapping

from sqlalchemy import Connection, Row, Select, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from artifacts.digest import Digest
from artifacts.record import Kind
from controller.records import CatalogueEntry
from controller.store.schema import artifacts, names


def add(
    connection: Connection,
    digest: Digest,
    kind: Kind,
    size_bytes: int,
    details: Mapping[str, object],
    utc_ns: int,
) -> None:
    """Records an artifact; known ones get the new details."""
    text = json.dumps(dict(details), sort_keys=True)
    statement = upsert(artifacts).values(
        digest=digest, kind=kind, size_bytes=size_bytes, details=text, added_utc_ns=utc_ns
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["digest"], set_={"details": text})
    )


def give(connection: Connection, kind: Kind, name: str, digest: Digest) -> None:
    """Gives the name to the artifact; the one that had it keeps its digest."""
    statement = upsert(names).values(kind=kind, name=name, digest=digest)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["kind", "name"], set_={"digest": digest})
    )


def every(connection: Connection, kind: Kind | None) -> list[CatalogueEntry]:
    """By kind and name; an artifact with several names stands there once for each."""
    statement = _joined().order_by(artifacts.c.kind, names.c.name, artifacts.c.added_utc_ns)
    if kind:
        statement = statement.where(artifacts.c.kind == kind)
    return [_entry(row) for row in connection.execute(statement)]


def forget(connection: Connection, digest: str) -> None:
    connection.execute(delete(names).where(names.c.digest == digest))
    connection.execute(delete(artifacts).where(artifacts.c.digest == digest))


def _joined() -> Select[tuple[str, str, int, Kind, str, int]]:
    return select(
        names.c.name,
        artifacts.c.digest,
        artifacts.c.size_bytes,
        artifacts.c.kind,
        artifacts.c.details,
        artifacts.c.added_utc_ns,
    ).select_from(artifacts.outerjoin(names, names.c.digest == artifacts.c.digest))


def _entry(row: Row[tuple[str, str, int, Kind, str, int]]) -> CatalogueEntry:
    return CatalogueEntry(
        name=row.name or "",
        digest=row.digest,
        size_bytes=row.size_bytes,
        kind=row.kind,
        details=json.loads(row.details),
        added_utc_ns=row.added_utc_ns,
    )
