"""API keys: made once, known by their SHA-256, void when they are revoked or have expired."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.keys import Keys
from controller.store import Store
from protos.errors import AlreadyExists, InvalidRequest, NotFound, Unauthenticated
from protos.identity import Role

DAY_NS = 86_400 * 10**9


class Clock:
    def __init__(self) -> None:
        self.utc_ns = 1_000 * DAY_NS

    def __call__(self) -> int:
        self.utc_ns += 1
        return self.utc_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> Iterator[Keys]:
    store = Store.open(tmp_path / "fleet.db")
    yield Keys(store, clock)
    store.close()


def refused(keys: Keys, text: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        keys.holder(text)
    return caught.value.reason


def test_a_key_is_known_by_its_text(keys: Keys) -> None:
    assert not keys.any_made()
    made = keys.add("laptop", Role.OPERATOR, 0)
    assert keys.any_made()
    assert keys.holder(made.text) == made.key == keys.every()[0]
    assert made.key.role is Role.OPERATOR


def test_the_secret_is_nowhere_in_the_database(keys: Keys, tmp_path: Path) -> None:
    secret = keys.add("laptop", Role.VIEWER, 0).text.rpartition("-")[2]
    with closing(sqlite3.connect(tmp_path / "fleet.db")) as connection:
        dump = "\n".join(connection.iterdump())
    assert "laptop" in dump
    assert secret not in dump
    assert secret.encode().hex() not in dump.lower()


def test_a_key_expires(keys: Keys, clock: Clock) -> None:
    made = keys.add("laptop", Role.OPERATOR, 86_400)
    clock.utc_ns += DAY_NS - 10
    assert keys.holder(made.text).name == "laptop"
    clock.utc_ns += 10
    assert refused(keys, made.text) == "KEY_EXPIRED"


def test_a_revoked_key_is_void_and_its_name_free(keys: Keys) -> None:
    made = keys.add("laptop", Role.OPERATOR, 0)
    with pytest.raises(AlreadyExists, match="laptop"):
        keys.add("laptop", Role.VIEWER, 0)
    keys.revoke("laptop")
    assert refused(keys, made.text) == "KEY_REVOKED"
    with pytest.raises(NotFound):
        keys.revoke("laptop")
    again = keys.add("laptop", Role.VIEWER, 0)
    assert keys.holder(again.text).role is Role.VIEWER
    assert [bool(key.revoked_utc_ns) for key in keys.every()] == [True, False]
    keys.revoke("laptop")
    assert keys.any_made(), "a fleet whose keys are all revoked is not an open one"


def test_only_people_have_keys(keys: Keys) -> None:
    for role in (Role.CONTROLLER, Role.DEVICE):
        with pytest.raises(InvalidRequest, match="operator and viewer"):
            keys.add("laptop", role, 0)
    with pytest.raises(InvalidRequest):
        keys.add("Not A Name", Role.VIEWER, 0)


def test_who_knows_an_id_only_learns_nothing(keys: Keys) -> None:
    made = keys.add("laptop", Role.OPERATOR, 0)
    keys.revoke("laptop")
    prefix, key_id, secret = made.text.split("-")
    for text in ("", key_id, f"{prefix}-{key_id}-", f"{prefix}-{key_id}-{secret[:-1]}x",
                 f"sk-{key_id}-{secret}", f"{prefix}-{key_id}-{secret}-"):  # fmt: skip
        assert refused(keys, text) == "KEY_UNKNOWN"


@given(st.text())
def test_whatever_is_sent_is_no_key(keys: Keys, text: str) -> None:
    assert refused(keys, text) == "KEY_UNKNOWN"
