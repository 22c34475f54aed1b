"""Devices that have joined, and how far their journals were collected."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from controller.records import DeviceRecord
from controller.store.schema import cursors, devices, fleet
from protos.errors import NotFound
from protos.nanofleet.v1 import device_pb2


@dataclass(frozen=True, slots=True)
class Cursor:
    """The newest event of a device's journal that is in the store. ("", 0): none."""

    journal_id: str = ""
    seq: int = 0


def fleet_value(connection: Connection, key: str) -> str:
    return str(connection.scalar(select(fleet.c.value).where(fleet.c.key == key)) or "")


def set_fleet_value(connection: Connection, key: str, value: str) -> None:
    connection.execute(delete(fleet).where(fleet.c.key == key))
    connection.execute(insert(fleet).values(key=key, value=value))


def join(
    connection: Connection,
    name: str,
    address: str,
    enrolment: str,
    labels: Mapping[str, str],
    utc_ns: int,
) -> None:
    """Records a joining; an earlier one of the same name is replaced."""
    values = {
        "address": address,
        "enrolment": enrolment,
        "labels": json.dumps(dict(labels), sort_keys=True),
        "facts": b"",
        "joined_utc_ns": utc_ns,
        "last_seen_utc_ns": utc_ns,
    }
    statement = upsert(devices).values(name=name, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


def every(connection: Connection) -> list[DeviceRecord]:
    return [_record(row) for row in connection.execute(select(devices).order_by(devices.c.name))]


def find(connection: Connection, name: str) -> DeviceRecord | None:
    row = connection.execute(select(devices).where(devices.c.name == name)).one_or_none()
    return None if row is None else _record(row)


def require(connection: Connection, name: str) -> DeviceRecord:
    """Raises NotFound with near names."""
    record = find(connection, name)
    if record is None:
        known = [device.name for device in every(connection)]
        near = difflib.get_close_matches(name, known, n=3)
        listed = ", ".join(near or known[:10])
        raise NotFound(
            f"There is no device {name!r} in this fleet.",
            fix=f"Did you mean {' or '.join(near)}?"
            if near
            else f"There is {listed}."
            if listed
            else "Add one: `nanofleet device token NAME`.",
            field="device",
        )
    return record


def seen(connection: Connection, name: str, device: device_pb2.Device, utc_ns: int) -> None:
    facts = device.SerializeToString()
    statement = update(devices).where(devices.c.name == name)
    connection.execute(statement.values(facts=facts, last_seen_utc_ns=utc_ns))


def set_labels(connection: Connection, name: str, labels: Mapping[str, str]) -> None:
    text = json.dumps(dict(labels), sort_keys=True)
    connection.execute(update(devices).where(devices.c.name == name).values(labels=text))


def remove(connection: Connection, name: str) -> None:
    connection.execute(delete(devices).where(devices.c.name == name))
    connection.execute(delete(cursors).where(cursors.c.device == name))


def cursor(connection: Connection, device: str) -> Cursor:
    row = connection.execute(select(cursors).where(cursors.c.device == device)).one_or_none()
    return Cursor() if row is None else Cursor(row.journal_id, row.seq)


def set_cursor(connection: Connection, device: str, at: Cursor) -> None:
    values = {"journal_id": at.journal_id, "seq": at.seq}
    statement = upsert(cursors).values(device=device, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=values))


def _record(row: Row[tuple[object, ...]]) -> DeviceRecord:
    return DeviceRecord(
        name=row.name,
        address=row.address,
        labels=json.loads(row.labels),
        joined_utc_ns=row.joined_utc_ns,
        last_seen_utc_ns=row.last_seen_utc_ns,
        facts=device_pb2.Device.FromString(row.facts) if row.facts else None,
        enrolment=row.enrolment,
    )
