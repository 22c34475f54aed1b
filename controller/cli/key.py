"""``nanofleet key``: who may ask `nanofleet serve`."""

import enum
import time
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import options, output, session, units
from controller.cli.output import Card, Format, Table

if TYPE_CHECKING:
    from controller import ApiKey, NewKey
    from controller.cli.plain import Plain

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who has it: a person or a program.")]


class Role(str, enum.Enum):
    OPERATOR = "operator"
    VIEWER = "viewer"


def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="A viewer sees the models, an operator generates.")
    ] = Role.OPERATOR,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Until when: 12h, 90d.  [default: for good]")
    ] = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Make an API key for `nanofleet serve`, and print it.

    It is printed this once: the fleet keeps only its SHA-256. From the first key on every request
    needs one.

    Example: nanofleet key add laptop --role viewer --expires 90d
    """
    from protos.identity import Role as Granted

    ttl_s = options.seconds(expires, "expires") if expires else 0.0
    granted = Granted(role.value)
    made = session.call(home, lambda fleet: fleet.add_key(name, role=granted, ttl_s=ttl_s))
    if form is Format.TABLE:
        output.text(made.text)
        output.note("Keep it now: it is not shown again.")
        return
    output.record("key", _new_plain(made), Card(()), form)


def list_keys(form: options.Output = Format.TABLE, home: options.Home = None) -> None:
    """List the API keys, the revoked ones among them.

    Example: nanofleet key list
    """
    keys, now_ns = session.call(home, lambda fleet: fleet.keys()), time.time_ns()
    output.listing("keys", [_plain(key, now_ns) for key in keys], _table(keys, now_ns), form)


def revoke(name: Name, form: options.Output = Format.TABLE, home: options.Home = None) -> None:
    """Revoke an API key, from the next request on.

    Example: nanofleet key revoke laptop
    """
    key = session.call(home, lambda fleet: fleet.revoke_key(name))
    output.listing("revoked", [{"name": key.name}], Table(("REVOKED",), [[key.name]]), form)


def _table(keys: "list[ApiKey]", now_ns: int) -> Table:
    rows = [
        [
            key.name,
            key.role.value,
            _state(key, now_ns),
            units.age(key.created_utc_ns, now_ns),
            units.stamp(key.expires_utc_ns) if key.expires_utc_ns else "never",
        ]
        for key in keys
    ]
    return Table(
        ("KEY", "ROLE", "STATE", "MADE", "EXPIRES"),
        rows,
        empty="There is no API key. Make one with `nanofleet key add NAME`.",
    )


def _state(key: "ApiKey", now_ns: int) -> str:
    if key.revoked_utc_ns:
        return "revoked"
    return "expired" if key.is_expired(now_ns) else "valid"


def _plain(key: "ApiKey", now_ns: int) -> "dict[str, Plain]":
    return {
        "name": key.name,
        "id": key.id,
        "role": key.role.value,
        "state": _state(key, now_ns),
        "created_utc_ns": key.created_utc_ns,
        "expires_utc_ns": key.expires_utc_ns or None,
        "revoked_utc_ns": key.revoked_utc_ns or None,
    }


def _new_plain(made: "NewKey") -> "dict[str, Plain]":
    return {"key": made.text, **_plain(made.key, made.key.created_utc_ns)}
