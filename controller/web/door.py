"""Who may come in over HTTP: a key's holder, in its role; or anybody, on this machine alone.

A fleet for which no key was ever made is open to this machine: nobody else can reach a loopback
address. But a web page in a browser here can: it may send what needs no consent (a form, plain
text), and a name of its own can be made to point here. So JSON is demanded, and a Host that is
this machine.
"""

import re
from collections.abc import Mapping

from starlette.datastructures import Headers

from controller import Fleet
from protos.errors import Forbidden, Unauthenticated
from protos.identity import Role

# What each role includes.
_RANKS: Mapping[Role, int] = {Role.VIEWER: 0, Role.OPERATOR: 1}
_HERE = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


class Door:
    """``is_local``: only this machine can reach it."""

    def __init__(self, fleet: Fleet, *, is_local: bool) -> None:
        self._fleet = fleet
        self._is_local = is_local

    def admit(self, headers: Headers, needed: Role) -> str:
        """The name of the key; empty where none is needed. Raises Unauthenticated or Forbidden."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if self._is_local and not self._fleet.any_key_made():
            _check_host(headers.get("host", ""))
            return ""
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthenticated(
                "There is no API key.",
                why="This fleet has keys, so each request needs one.",
                fix="Send it as `Authorization: Bearer KEY`; make one with `nanofleet key add"
                " NAME`.",
                reason="KEY_MISSING",
            )
        key = self._fleet.key_holder(text.strip())
        if _RANKS[key.role] < _RANKS[needed]:
            raise Forbidden(
                f"The API key {key.name} may not do this.",
                why=f"Its role is {key.role.value}, and this needs {needed.value}.",
                fix=f"Use another one; `nanofleet key add NAME --role {needed.value}` makes it.",
            )
        return key.name


def _check_host(host: str) -> None:
    if _HERE.fullmatch(host) is None:
        raise Forbidden(
            f"The request is for {host!r}, and this is open to this machine alone.",
            why="No API key was made, and another name may be a web page's that points here.",
            fix="Ask 127.0.0.1 or localhost, or make a key: `nanofleet key add NAME`.",
        )
