"""Inference and telemetry of a real agent, and its errors on the wire."""

import asyncio
from pathlib import Path

import pytest

from controller import Fleet
from controller.demo.processes import free_port
from protos.errors import (
    InvalidRequest,
    Unreachable,
)
from protos.nanofleet.v1 import job_pb2
from tests.controller.agents import Agent


async def test_bad_requests_for_text(fleet: Fleet) -> None:
    for arguments in ({}, {"prompt": "a", "messages": [("user", "b")]}, {"messages": [("x", "b")]}):
        with pytest.raises(InvalidRequest):
            async for _ in fleet.generate("kitchen", base="tiny", **arguments):
                pass


async def test_a_model_is_loaded_and_unloaded(fleet: Fleet) -> None:
    await fleet.push("tiny", ["kitchen"])
    loaded = await fleet.load_model("kitchen", "tiny")
    assert loaded.base_digest == fleet.resolve("tiny").digest
    status = await fleet.status("kitchen")
    assert status.device is not None
    assert status.device.loaded_model.base_digest == loaded.base_digest
    await fleet.unload_model("kitchen")


async def test_a_sighting_tells_what_a_device_holds_and_writes_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    (record,) = fleet.devices()
    (before,) = await fleet.sightings()
    assert before.status.reachable
    (tmp_path / "sighted.jsonl").write_text('{"text": "Only this test has this line."}\n')
    entry = await fleet.add_dataset(tmp_path / "sighted.jsonl")
    await fleet.push(entry.digest, ["kitchen"])
    (after,) = await fleet.sightings({"kitchen": before})
    assert after.held - before.held == {entry.digest}
    assert after.status.device is not None
    assert after.status.device.requests == 0
    assert fleet.devices()[0].last_seen_utc_ns == record.last_seen_utc_ns


async def test_telemetry_comes_in_order_without_a_gap(fleet: Fleet) -> None:
    seqs = []
    async for sample in fleet.telemetry("kitchen", history=True):
        seqs.append(sample.seq)
        if len(seqs) == 5:
            break
    assert seqs == list(range(seqs[0], seqs[0] + 5))


async def test_a_broken_connection_is_closed_when_nobody_reads_from_it_any_more(
    fleet: Fleet,
) -> None:
    """gRPC would end the reader as if somebody had cancelled it."""
    connection = fleet._to("kitchen")
    stream = connection.stream(connection.jobs.WatchJob, job_pb2.WatchJobRequest())
    await anext(stream)
    closing = asyncio.create_task(connection.close_unused())
    await connection.get_device()
    assert not closing.done()
    await stream.aclose()
    await asyncio.wait_for(closing, 10)


async def test_errors_of_the_wire_are_ours(empty_fleet: Fleet, tmp_path: Path) -> None:
    await Agent("away", tmp_path / "away", free_port()).join(empty_fleet)
    with pytest.raises(Unreachable):
        await empty_fleet.remote_artifacts("away")
    with pytest.raises(Unreachable):
        async for _ in empty_fleet.telemetry("away"):
            pass
