"""Identities: who a certificate says its holder is.

A certificate of the fleet carries one URI name, ``spiffe://nanofleet/<role>/<name>``, and one DNS
name, ``<name>.<role>.nanofleet``. The URI is what access is decided by; the DNS name is what a
client demands of the server that it dials (``ssl_target_name_override``), so that an address that
was handed to another board is noticed in the handshake.
"""

import enum
import re
from dataclasses import dataclass

from protos.errors import InvalidRequest

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_URI = re.compile(r"spiffe://nanofleet/(?P<role>[a-z]+)/(?P<name>[a-z0-9-]{1,63})")


class Role(str, enum.Enum):
    CONTROLLER = "controller"
    OPERATOR = "operator"
    VIEWER = "viewer"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Identity:
    role: Role
    name: str

    @property
    def uri(self) -> str:
        return f"spiffe://nanofleet/{self.role.value}/{self.name}"

    @property
    def dns_name(self) -> str:
        return f"{self.name}.{self.role.value}.nanofleet"


def parse_uri(uri: str) -> Identity | None:
    """The identity that a certificate's URI name gives; None when it is not one of ours."""
    match = _URI.fullmatch(uri)
    if match is None or match["role"] not in {role.value for role in Role}:
        return None
    return Identity(Role(match["role"]), match["name"])


def checked_name(name: str, what: str) -> str:
    """``name`` itself; raises InvalidRequest when it cannot name a device, a fleet or a person."""
    if NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"{name!r} cannot name a {what}.",
            why="A name has 1 to 63 lower-case letters, digits and inner hyphens.",
            fix="Choose another one, such as kitchen-2.",
            field="name",
        )
    return name
