"""Invitations. Only the SHA-256 of a secret is stored; whoever reads the database cannot join."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from controller.store.schema import tokens

# Spent and expired tokens are kept a day, so that their use is told apart from an unknown one's.
_KEPT_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class StoredToken:
    id: str
    device: str
    secret_sha256: bytes
    labels: Mapping[str, str]
    expires_utc_ns: int
    spent_utc_ns: int | None


def add(connection: Connection, token: StoredToken, utc_ns: int) -> None:
    connection.execute(delete(tokens).where(tokens.c.expires_utc_ns < utc_ns - _KEPT_NS))
    connection.execute(
        insert(tokens).values(
            id=token.id,
            device=token.device,
            secret_sha256=token.secret_sha256,
            labels=json.dumps(dict(token.labels), sort_keys=True),
            expires_utc_ns=token.expires_utc_ns,
            spent_utc_ns=token.spent_utc_ns,
        )
    )


def find(connection: Connection, token_id: str) -> StoredToken | None:
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).one_or_none()
    if row is None:
        return None
    return StoredToken(
        row.id,
        row.device,
        row.secret_sha256,
        json.loads(row.labels),
        row.expires_utc_ns,
        row.spent_utc_ns,
    )


def spend(connection: Connection, token_id: str, utc_ns: int) -> bool:
    """Spends the token; False when somebody else has. The update itself decides a race."""
    unspent = (tokens.c.id == token_id) & tokens.c.spent_utc_ns.is_(None)
    result = connection.execute(update(tokens).where(unspent).values(spent_utc_ns=utc_ns))
    return result.rowcount == 1
