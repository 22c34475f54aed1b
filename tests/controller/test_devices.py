"""Devices as a user sees them: real agents in processes of their own, real mTLS."""

from pathlib import Path

import pytest

from controller import Fleet
from controller.demo.processes import free_port
from protos.errors import (
    InvalidRequest,
    NotFound,
)
from tests.controller.agents import Agent


async def test_a_device_tells_what_it_is(fleet: Fleet) -> None:
    status = await fleet.status("kitchen")
    assert status.reachable
    assert status.device is not None
    assert status.device.name == "kitchen"
    (record,) = fleet.devices("site=lab,name=kitchen,mem>=1Mi")
    assert record.facts == status.device
    assert record.last_seen_utc_ns > record.joined_utc_ns
    assert fleet.devices("site=home") == []


async def test_an_unreachable_device_is_listed_with_its_problem(
    empty_fleet: Fleet, tmp_path: Path
) -> None:
    away = Agent("away", tmp_path / "away", free_port())
    await away.join(empty_fleet)
    (status,) = await empty_fleet.statuses()
    assert not status.reachable
    assert "Cannot reach device away" in status.problem
    assert await empty_fleet.statuses("state=idle") == []
    assert len(await empty_fleet.statuses("state=unreachable")) == 1


async def test_names_that_are_not_there(fleet: Fleet) -> None:
    with pytest.raises(NotFound, match="Did you mean kitchen"):
        await fleet.status("kitchn")
    with pytest.raises(NotFound, match="Did you mean kitchen"):
        fleet.label_device("kitchn", {})


async def test_labels_are_replaced(empty_fleet: Fleet, tmp_path: Path) -> None:
    await Agent("porch", tmp_path / "porch", 7401).join(empty_fleet, {"site": "lab"})
    empty_fleet.label_device("porch", {"rack": "2"})
    assert [dict(record.labels) for record in empty_fleet.devices()] == [{"rack": "2"}]
    with pytest.raises(InvalidRequest):
        empty_fleet.label_device("porch", {"no good": "x"})


async def test_the_certificate_of_a_removed_device_is_not_accepted(
    empty_fleet: Fleet, tmp_path: Path
) -> None:
    """The old device still runs, with its old certificate, where the new one should be."""
    fleet, port = empty_fleet, free_port()
    old = Agent("porch", tmp_path / "old", port)
    await old.join(fleet)
    old.start()
    assert (await fleet.status("porch")).reachable
    fleet.remove_device("porch")
    with pytest.raises(NotFound):
        await fleet.status("porch")
    await Agent("porch", tmp_path / "new", port).join(fleet)
    status = await fleet.status("porch")
    old.stop()
    assert not status.reachable
    assert "is not that device" in status.problem
