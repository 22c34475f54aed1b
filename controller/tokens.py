"""Invitations as text: ``<id>.<secret>.<pin>@<host>:<port>``.

One line to paste, because the person who adds a board sits at two screens. The pin lets the board
know the fleet's authority before it says anything; the secret lets the controller know the board.
All parts are lower-case letters and digits, so that a double click takes the whole word.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from protos.errors import InvalidRequest

TOKEN_LIFE_S = 900.0

_ID_BYTES = 5
_SECRET_BYTES = 20
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:@\[\]]*):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Invitation:
    """The two halves that the controller makes: the public id and the secret."""

    id: str
    secret: str

    def text(self, pin: str, address: str) -> str:
        return f"{self.id}.{self.secret}.{pin}@{address}"


def invite() -> Invitation:
    return Invitation(_word(_ID_BYTES), _word(_SECRET_BYTES))


def sha256_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def is_secret(secret: str, sha256: bytes) -> bool:
    return hmac.compare_digest(sha256_of(secret), sha256)


def split_address(address: str, field: str = "address") -> tuple[str, int]:
    """Host and port of "host:port" (the host may be empty); raises InvalidRequest otherwise."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InvalidRequest(
            f"{address!r} is not an address.",
            why="An address is host:port, with an IPv6 host in brackets.",
            fix="Write it like 192.168.1.20:7402 or [fd00::20]:7402.",
            field=field,
        )
    return match["host"], int(match["port"])


def _word(size: int) -> str:
    return base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()
