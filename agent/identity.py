"""Who this device is: the key and certificates that joining the fleet has left in the state folder.

    identity/key.pem         made on the device, never leaves it
    identity/chain.pem       the device's certificate, then those above it
    identity/authority.pem   the fleet's CA: whom the agent trusts

The daemon loads no cryptography library for the one name that it needs of its own certificate: a
URI in it is its tag, its length and its characters.
"""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from protos.errors import InternalError, Unauthenticated
from protos.identity import Identity, Role, parse_uri

FOLDER = "identity"
KEY, CHAIN, AUTHORITY = "key.pem", "chain.pem", "authority.pem"

_END = "-----END CERTIFICATE-----"
_URI = re.compile(rb"\x86(.)(spiffe://[\x21-\x7e]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Credentials:
    identity: Identity
    key: bytes
    chain: bytes
    authority: bytes


def load(folder: Path) -> Credentials:
    """The identity in the folder; raises Unauthenticated when the device has not joined a fleet."""
    try:
        key, chain, authority = ((folder / name).read_bytes() for name in (KEY, CHAIN, AUTHORITY))
    except FileNotFoundError:
        raise Unauthenticated(
            "This device has not joined a fleet.",
            fix="Make a token on the controller (`nanofleet device token NAME`), then run"
            " `nanofleet-agent join TOKEN` here.",
            reason="NOT_JOINED",
        ) from None
    return Credentials(_identity(chain), key, chain, authority)


def _identity(chain: bytes) -> Identity:
    leaf, end, _ = chain.decode(errors="replace").partition(_END)
    try:
        der = ssl.PEM_cert_to_DER_cert(leaf[leaf.find("-----BEGIN") :] + end)
    except ValueError:
        der = b""
    for length, uri in _URI.findall(der):
        identity = parse_uri(uri[: ord(length)].decode())
        if identity is not None and identity.role is Role.DEVICE:
            return identity
    raise InternalError(
        f"{CHAIN} is no certificate of a device.",
        fix="Join the fleet again: `nanofleet-agent join TOKEN`.",
    )
