"""Who comes in over HTTP."""

import pytest
from starlette.datastructures import Headers

from controller import Fleet
from controller.web.door import Door
from protos.errors import Forbidden, Unauthenticated
from protos.identity import Role

HERE = {"host": "127.0.0.1:7480"}


def knock(door: Door, role: Role = Role.OPERATOR, **headers: str) -> str:
    return door.admit(Headers({**HERE, **headers}), role)


async def test_without_a_key_this_machine_comes_in(empty_fleet: Fleet) -> None:
    door = Door(empty_fleet, is_local=True)
    assert knock(door) == ""
    assert knock(door, authorization="Bearer whatever a client sends") == ""


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1", "127.1.2.3:7", "[::1]:7"]
)
async def test_by_a_name_of_this_machine(empty_fleet: Fleet, host: str) -> None:
    assert knock(Door(empty_fleet, is_local=True), host=host) == ""


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil"])
async def test_and_by_no_other(empty_fleet: Fleet, host: str) -> None:
    with pytest.raises(Forbidden, match="this machine alone"):
        knock(Door(empty_fleet, is_local=True), host=host)


async def test_others_need_a_key_even_where_none_was_made(empty_fleet: Fleet) -> None:
    with pytest.raises(Unauthenticated):
        knock(Door(empty_fleet, is_local=False))


async def test_from_the_first_key_on_everybody_needs_one(empty_fleet: Fleet) -> None:
    door = Door(empty_fleet, is_local=True)
    made = empty_fleet.add_key("laptop")
    assert knock(door, authorization=f"Bearer {made.text}") == "laptop"
    assert knock(door, authorization=f"bearer  {made.text} ", host="elsewhere") == "laptop"
    for wrong in ("", made.text, f"Basic {made.text}", "Bearer ", f"Bearer {made.text}x"):
        with pytest.raises(Unauthenticated):
            knock(door, authorization=wrong)
    empty_fleet.revoke_key("laptop")
    with pytest.raises(Unauthenticated, match="revoked"):
        knock(door, authorization=f"Bearer {made.text}")
    with pytest.raises(Unauthenticated):
        knock(door)


async def test_a_viewer_looks_only(empty_fleet: Fleet) -> None:
    door = Door(empty_fleet, is_local=True)
    key = {"authorization": f"Bearer {empty_fleet.add_key('wall', role=Role.VIEWER).text}"}
    assert knock(door, Role.VIEWER, **key) == "wall"
    with pytest.raises(Forbidden, match="viewer, and this needs operator"):
        knock(door, Role.OPERATOR, **key)
    operator = {"authorization": f"Bearer {empty_fleet.add_key('ada').text}"}
    assert knock(door, Role.VIEWER, **operator) == "ada"
