"""What an agent knows of its models after it was started again: which it served, what they took,
and what was decided about them."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from artifacts import digest
from protos.nanofleet.v1 import artifact_pb2, device_pb2, inference_pb2
from protos.nanofleet.v1.device_pb2 import DeviceEvent, ListEventsRequest
from tests.agent.daemon import Daemon, Stubs
from tests.agent.test_serving import BASE, answer, asked, device, packed_adapter, tokens

SETTINGS = "[inference]\nthreads = 1\ncontext_length = 256\n"


@asynccontextmanager
async def started(daemon: Daemon, settings: str = SETTINGS) -> AsyncIterator[Stubs]:
    daemon.write_config(settings)
    daemon.start()
    async with daemon.stubs() as stubs:
        yield stubs


async def put(stubs: Stubs, path: Path) -> str:
    data = await asyncio.to_thread(path.read_bytes)
    await stubs.put(digest.of_bytes(data), data, BASE)
    return digest.of_bytes(data)


async def samples(stubs: Stubs) -> AsyncIterator[None]:
    """A moment of the device's time each."""
    request = device_pb2.WatchTelemetryRequest(live_only=True)
    async for _ in stubs.device.WatchTelemetry(request):
        yield


async def loaded(stubs: Stubs, adapters: int = 0) -> device_pb2.LoadedModel:
    async for _ in samples(stubs):
        found = (await device(stubs)).loaded_model
        if found.base_digest and len(found.adapter_digests) >= adapters:
            return found
    raise AssertionError("the stream ended")


async def events(stubs: Stubs, **wanted: object) -> list[DeviceEvent]:
    request = ListEventsRequest(**wanted)  # type: ignore[arg-type]
    return list((await stubs.device.ListEvents(request)).events)


async def told(stubs: Stubs, act: str, base: str = "") -> DeviceEvent:
    """The first event of this kind, of the base if one is named."""
    async for _ in samples(stubs):
        for event in await events(stubs):
            if event.act == act and base in event.base_digest:
                return event
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("ending", ["an orderly end", "a power cut"])
async def test_the_model_and_its_adapter_are_there_again_after_a_start(
    ending: str, daemon: Daemon, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    archive = packed_adapter(tmp_path / "persona", tiny_folder, tiny_base)
    request = asked(tiny_base)
    request.adapter_digest = digest.of_bytes(archive)
    async with started(daemon) as stubs:
        await put(stubs, tiny_base)
        await stubs.put(request.adapter_digest, archive, artifact_pb2.ARTIFACT_KIND_ADAPTER)
        said = tokens(await answer(stubs, request))
        journal = await stubs.device.ListEvents(ListEventsRequest())
    if ending == "a power cut":
        daemon.kill()
    else:
        daemon.stop()
    async with started(daemon) as stubs:
        found = await loaded(stubs, adapters=1)
        assert found.base_digest == request.base_digest
        assert list(found.adapter_digests) == [request.adapter_digest]
        assert found.context_length == 256
        assert tokens(await answer(stubs, request)) == said
        again = await stubs.device.ListEvents(
            ListEventsRequest(journal_id=journal.journal_id, after_seq=journal.events[-1].seq)
        )
    assert [event.act for event in journal.events] == ["load the model"]
    assert [event.act for event in again.events] == ["load the model"]
    assert again.events[0].base_digest == request.base_digest
    assert "It needs" in again.events[0].reason


async def test_a_setting_leaves_it_to_the_first_request(daemon: Daemon, tiny_base: Path) -> None:
    async with started(daemon) as stubs:
        await put(stubs, tiny_base)
        await answer(stubs, asked(tiny_base))
    daemon.stop()
    async with started(daemon, SETTINGS + "warm_start = false\n") as stubs:
        seen = 0
        async for _ in samples(stubs):
            seen += 1
            assert not (await device(stubs)).HasField("loaded_model")
            if seen == 5:
                break
        assert len(await events(stubs)) == 1
        assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_what_a_person_unloads_stays_so(daemon: Daemon, tiny_base: Path) -> None:
    async with started(daemon) as stubs:
        await put(stubs, tiny_base)
        await answer(stubs, asked(tiny_base))
        assert (daemon.state / "served.json").is_file()
        await stubs.inference.UnloadModel(inference_pb2.UnloadModelRequest())
        assert not (daemon.state / "served.json").exists()


async def test_what_may_have_ended_the_last_start_is_not_loaded_by_itself(
    daemon: Daemon, tiny_base: Path
) -> None:
    async with started(daemon) as stubs:
        base = await put(stubs, tiny_base)
        await answer(stubs, asked(tiny_base))
    daemon.kill()
    leave_note(daemon, is_opening=True)
    async with started(daemon) as stubs:
        event = await told(stubs, "leave out the warm start")
        assert event.base_digest == base
        assert "while it was being loaded" in event.reason
        assert not (await device(stubs)).HasField("loaded_model")
        await answer(stubs, asked(tiny_base))
    daemon.stop()
    async with started(daemon) as stubs:
        assert (await loaded(stubs)).base_digest == base


async def test_what_cannot_be_loaded_is_tried_once(daemon: Daemon, tiny_base: Path) -> None:
    async with started(daemon) as stubs:
        await put(stubs, tiny_base)
        await answer(stubs, asked(tiny_base))
        garbage = b"no model at all" * 10
        await stubs.put(digest.of_bytes(garbage), garbage, BASE)
    daemon.stop()
    unknown = digest.of_bytes(b"deleted meanwhile")
    leave_note(daemon, adapter_digests=[unknown])
    async with started(daemon) as stubs:
        event = await told(stubs, "leave out the warm start")
        assert (event.base_digest, event.adapter_digest) == (digest.of_file(tiny_base), unknown)
        assert (await device(stubs)).HasField("loaded_model"), "the base is there all the same"
        assert note(daemon)["adapter_digests"] == []
    daemon.stop()
    leave_note(daemon, base_digest=digest.of_bytes(garbage))
    async with started(daemon) as stubs:
        event = await told(stubs, "leave out the warm start", digest.of_bytes(garbage))
        assert event.reason
        assert not (daemon.state / "served.json").exists()
        assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


def note(daemon: Daemon) -> dict[str, object]:
    found = json.loads((daemon.state / "served.json").read_bytes())
    assert isinstance(found, dict)
    return found


def leave_note(daemon: Daemon, **changes: object) -> None:
    (daemon.state / "served.json").write_text(json.dumps({**note(daemon), **changes}))


async def test_a_worker_that_dies_is_an_event_and_so_is_a_refusal(
    daemon: Daemon, tiny_base: Path
) -> None:
    async with started(daemon, SETTINGS + "[memory]\nreserve_mib = 100000000\n") as stubs:
        await put(stubs, tiny_base)
        with pytest.raises(grpc.aio.AioRpcError):
            await answer(stubs, asked(tiny_base))
    daemon.stop()
    async with started(daemon) as stubs:
        await answer(stubs, asked(tiny_base))
        async for response in stubs.device.WatchTelemetry(
            device_pb2.WatchTelemetryRequest(live_only=True)
        ):
            if workers := response.samples[-1].workers:
                os.kill(workers[0].pid, signal.SIGKILL)
                break
        lost = await told(stubs, "lose the model")
        assert "SIGKILL" in lost.reason
        newest = await events(stubs, newest=1)
        assert [event.seq for event in newest] == [lost.seq]


async def test_what_a_load_took_is_known_after_a_start(daemon: Daemon, tiny_base: Path) -> None:
    request = inference_pb2.LoadModelRequest(base_digest=digest.of_file(tiny_base))
    async with started(daemon) as stubs:
        await put(stubs, tiny_base)
        first = await stubs.inference.LoadModel(request)
    daemon.stop()
    assert 0 < first.predicted_bytes == first.calibrated_bytes
    path = daemon.state / "calibration.json"
    kept = json.loads(path.read_bytes())
    (entry,) = kept["taken"]
    assert (entry["kind"], entry["base_digest"]) == ("serving", request.base_digest)
    assert entry["measured_bytes"] >= first.anonymous_bytes
    entry["measured_bytes"] = first.predicted_bytes + 50_000_000
    path.write_text(json.dumps(kept))
    async with started(daemon) as stubs:
        await loaded(stubs)
        again = await stubs.inference.LoadModel(request)
        assert again.predicted_bytes == first.predicted_bytes
        assert again.calibrated_bytes == entry["measured_bytes"]
        (event,) = await events(stubs, newest=1)
        assert "(50 MB of it as measured before)" in event.reason
    daemon.stop()
    path.write_text("{")
    async with started(daemon) as stubs:
        await loaded(stubs)
        assert (await stubs.inference.LoadModel(request)).calibrated_bytes == first.predicted_bytes
    daemon.stop()
    assert json.loads(path.read_bytes())["taken"], "it is replaced by what is measured anew"
