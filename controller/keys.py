"""API keys: who may ask the service over HTTP, and what for. ``nf-<id>-<secret>``, shown once.

The prefix lets scanners of repositories know a key that was committed; the id names it in the
database and in logs, the secret is in neither.
"""

import time
from collections.abc import Callable

from artifacts.persisting import Point
from controller import tokens
from controller.records import ApiKey, NewKey
from controller.store import Store
from controller.store import keys as stored_keys
from protos.errors import AlreadyExists, InvalidRequest, NotFound, Unauthenticated
from protos.identity import Role, checked_name

PREFIX = "nf"
# Of a person or a program; a controller's and a device's identities are certificates.
ROLES = (Role.OPERATOR, Role.VIEWER)

_NEW_KEY = "Make one on the workstation: `nanofleet key add NAME`."


class Keys:
    def __init__(self, store: Store, utc_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._utc_ns = utc_ns

    def add(self, name: str, role: Role, ttl_s: float) -> NewKey:
        """``ttl_s`` 0: until it is revoked. AlreadyExists while an unrevoked key has the name."""
        checked_name(name, "key")
        if role not in ROLES:
            raise InvalidRequest(
                f"An API key cannot have the role {role.value}.",
                fix=f"Roles of keys are {' and '.join(known.value for known in ROLES)}.",
                field="role",
            )
        made, utc_ns = tokens.invite(), self._utc_ns()
        expires_utc_ns = utc_ns + round(ttl_s * 1e9) if ttl_s else 0
        key = ApiKey(made.id, name, role, utc_ns, expires_utc_ns)
        with self._store.write(Point.FLEET_KEY_MADE) as transaction:
            if stored_keys.unrevoked(transaction, name) is not None:
                raise AlreadyExists(
                    f"There is an API key {name} already.",
                    why="Its secret is not stored, so it cannot be shown again.",
                    fix=f"Choose another name, or replace it: `nanofleet key revoke {name}`.",
                )
            stored_keys.add(transaction, key, tokens.sha256_of(made.secret))
        return NewKey(f"{PREFIX}-{made.id}-{made.secret}", key)

    def every(self) -> list[ApiKey]:
        with self._store.read() as transaction:
            return stored_keys.every(transaction)

    def any_made(self) -> bool:
        """Also when all are revoked or expired by now."""
        with self._store.read() as transaction:
            return stored_keys.any_made(transaction)

    def revoke(self, name: str) -> ApiKey:
        """From the next request on. NotFound when no unrevoked key has the name."""
        with self._store.write(Point.FLEET_KEY_REVOKED) as transaction:
            key = stored_keys.unrevoked(transaction, name)
            if key is None:
                raise NotFound(f"There is no API key {name}.", fix="See `nanofleet key list`.")
            stored_keys.revoke(transaction, key.id, self._utc_ns())
        return key

    def holder(self, text: str) -> ApiKey:
        """The key that ``text`` is. Raises Unauthenticated, with a reason of its own for each
        cause that whoever holds the secret may know."""
        prefix, _, rest = text.partition("-")
        key_id, _, secret = rest.partition("-")
        with self._store.read() as transaction:
            found = stored_keys.find(transaction, key_id) if prefix == PREFIX else None
        # The secret first: who only knows an id learns nothing about its key.
        if found is None or not tokens.is_secret(secret, found[1]):
            raise Unauthenticated(
                "The API key is not one of this fleet.",
                why="It was cut off when it was copied, or another fleet made it.",
                fix=_NEW_KEY,
                reason="KEY_UNKNOWN",
            )
        key, _ = found
        if key.revoked_utc_ns:
            raise Unauthenticated(
                f"The API key {key.name} was revoked.", fix=_NEW_KEY, reason="KEY_REVOKED"
            )
        if key.is_expired(self._utc_ns()):
            raise Unauthenticated(
                f"The API key {key.name} has expired.", fix=_NEW_KEY, reason="KEY_EXPIRED"
            )
        return key
