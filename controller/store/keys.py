"""API keys. Only the SHA-256 of a secret is stored; whoever reads the database cannot use them.

A revoked key stays in the table: that it was one is told to who still uses it, and a fleet whose
keys are all revoked does not become open again.
"""

from sqlalchemy import Connection, Row, insert, select, update

from controller.records import ApiKey
from controller.store.schema import api_keys
from protos.identity import Role


def add(connection: Connection, key: ApiKey, secret_sha256: bytes) -> None:
    connection.execute(
        insert(api_keys).values(
            id=key.id,
            name=key.name,
            role=key.role.value,
            secret_sha256=secret_sha256,
            created_utc_ns=key.created_utc_ns,
            expires_utc_ns=key.expires_utc_ns or None,
            revoked_utc_ns=key.revoked_utc_ns or None,
        )
    )


def every(connection: Connection) -> list[ApiKey]:
    """Oldest first, revoked ones too."""
    statement = select(api_keys).order_by(api_keys.c.created_utc_ns, api_keys.c.id)
    return [_key(row) for row in connection.execute(statement)]


def any_made(connection: Connection) -> bool:
    return connection.scalar(select(api_keys.c.id).limit(1)) is not None


def find(connection: Connection, key_id: str) -> tuple[ApiKey, bytes] | None:
    """The key and the SHA-256 of its secret."""
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
    return None if row is None else (_key(row), row.secret_sha256)


def unrevoked(connection: Connection, name: str) -> ApiKey | None:
    """The one key of that name that is not revoked."""
    named = (api_keys.c.name == name) & api_keys.c.revoked_utc_ns.is_(None)
    row = connection.execute(select(api_keys).where(named)).one_or_none()
    return None if row is None else _key(row)


def revoke(connection: Connection, key_id: str, utc_ns: int) -> None:
    known = api_keys.c.id == key_id
    connection.execute(update(api_keys).where(known).values(revoked_utc_ns=utc_ns))


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_utc_ns=row.created_utc_ns,
        expires_utc_ns=row.expires_utc_ns or 0,
        revoked_utc_ns=row.revoked_utc_ns or 0,
    )
