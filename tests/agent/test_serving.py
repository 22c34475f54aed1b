"""Inference on a real agent process, with the real engine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from agent.inference.engines import ENGINES
from artifacts import adapter, digest
from artifacts.convert import convert_adapter
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2, device_pb2, inference_pb2
from protos.nanofleet.v1.inference_pb2 import GenerateRequest, LoadModelRequest, UnloadModelRequest
from protos.nanofleet.v1.telemetry_pb2 import WorkerSample
from tests.agent.daemon import Daemon, Stubs
from tests.artifacts.convert import shapes

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL


@pytest.fixture
async def stubs(daemon: Daemon, tiny_base: Path) -> AsyncIterator[Stubs]:
    daemon.write_config("[inference]\nthreads = 1\ncontext_length = 256\n")
    daemon.start()
    async with daemon.stubs() as connected:
        data = await asyncio.to_thread(tiny_base.read_bytes)
        await connected.put(digest.of_bytes(data), data, BASE)
        yield connected


def asked(base: Path, prompt: str = "Once upon a time", max_tokens: int = 12) -> GenerateRequest:
    return GenerateRequest(base_digest=digest.of_file(base), prompt=prompt, max_tokens=max_tokens)


async def answer(stubs: Stubs, request: GenerateRequest) -> list[inference_pb2.GenerateResponse]:
    return [response async for response in stubs.inference.Generate(request)]


def tokens(responses: list[inference_pb2.GenerateResponse]) -> list[int]:
    return [token for response in responses for token in response.token_ids]


async def failure(stubs: Stubs, request: GenerateRequest) -> errors.NanofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(stubs, request)
    return status.from_rpc_error(caught.value, "the device")


async def device(stubs: Stubs) -> device_pb2.Device:
    return (await stubs.device.GetDevice(device_pb2.GetDeviceRequest())).device


async def server(
    stubs: Stubs, wanted: Callable[[WorkerSample], bool] = lambda sample: True
) -> WorkerSample:
    """The first wanted sample of the inference worker in telemetry, as anybody would find it."""
    request = device_pb2.WatchTelemetryRequest(live_only=True)
    async for response in stubs.device.WatchTelemetry(request):
        for sample in response.samples:
            for worker in sample.workers:
                if worker.kind == WorkerSample.KIND_INFERENCE and wanted(worker):
                    return worker
    raise AssertionError("the stream ended")


async def worker_pid(stubs: Stubs) -> int:
    return (await server(stubs)).pid


async def test_telemetry_tells_the_speed_while_there_is_one(stubs: Stubs, tiny_base: Path) -> None:
    seen = asyncio.Event()

    async def generate() -> None:
        """Again and again: an answer may come and go between two samples."""
        while not seen.is_set():
            responses = await answer(stubs, asked(tiny_base, max_tokens=200))
            assert responses[-1].usage.decode_tokens_per_s > 0

    generating = asyncio.create_task(generate())
    fast = await server(stubs, lambda sample: sample.HasField("tokens_per_s"))
    assert fast.tokens_per_s > 0
    seen.set()
    await generating
    idle = server(stubs, lambda sample: not sample.HasField("tokens_per_s"))
    await asyncio.wait_for(idle, timeout=60)


async def test_a_request_loads_the_model_and_streams(stubs: Stubs, tiny_base: Path) -> None:
    responses = await answer(stubs, asked(tiny_base))
    assert len(tokens(responses)) == 12
    assert responses[-1].finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert responses[-1].usage.completion_tokens == 12
    assert tokens(await answer(stubs, asked(tiny_base))) == tokens(responses)

    loaded = (await device(stubs)).loaded_model
    assert loaded.base_digest == digest.of_file(tiny_base)
    assert loaded.context_length == 256
    listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest())
    assert list(listed.artifacts[0].pins) == ["loaded"]

    many = await asyncio.gather(*(answer(stubs, asked(tiny_base)) for _ in range(4)))
    assert all(tokens(one) == tokens(responses) for one in many)


async def test_loading_and_unloading_are_idempotent(stubs: Stubs, tiny_base: Path) -> None:
    request = LoadModelRequest(base_digest=digest.of_file(tiny_base), context_length=128)
    first = await stubs.inference.LoadModel(request)
    assert first.context_length == 128
    assert first.anonymous_bytes > 0
    pid = await worker_pid(stubs)
    assert await stubs.inference.LoadModel(request) == first
    assert await worker_pid(stubs) == pid
    for _ in range(2):
        await stubs.inference.UnloadModel(UnloadModelRequest())
        assert not (await device(stubs)).HasField("loaded_model")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await stubs.artifacts.DeleteArtifact(
        artifact_pb2.DeleteArtifactRequest(digest=digest.of_file(tiny_base))
    )
    assert isinstance(await failure(stubs, asked(tiny_base)), errors.NotFound)


async def test_a_crash_fails_the_requests_in_flight_and_no_later_one(
    stubs: Stubs, tiny_base: Path
) -> None:
    await stubs.inference.LoadModel(LoadModelRequest(base_digest=digest.of_file(tiny_base)))
    pid = await worker_pid(stubs)
    os.kill(pid, signal.SIGSTOP)
    call = stubs.inference.Generate(asked(tiny_base))
    await device(stubs)  # a later call on the same connection: the earlier one is in flight
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [response async for response in call]
    error = status.from_rpc_error(caught.value, "the device")
    assert isinstance(error, errors.WorkerFailed)
    assert "SIGKILL" in str(error)
    assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_a_client_that_leaves_stops_its_request(stubs: Stubs, tiny_base: Path) -> None:
    long, many = asked(tiny_base, max_tokens=200), 30
    await answer(stubs, long)  # loads the model
    one_s = (await answer(stubs, long))[-1].usage.decode_s
    calls = [stubs.inference.Generate(long) for _ in range(many)]
    await calls[0].read()
    for call in calls:
        call.cancel()
    responses = await answer(stubs, asked(tiny_base))
    assert responses[-1].usage.queue_s < many * one_s / 2, "it waited for answers to nobody"


async def test_wrong_requests(stubs: Stubs, tiny_base: Path) -> None:
    empty = GenerateRequest(base_digest=digest.of_file(tiny_base))
    assert (await failure(stubs, empty)).field == "input"
    too_long = await failure(stubs, asked(tiny_base, "word " * 500))
    assert isinstance(too_long, errors.InvalidRequest)
    assert (too_long.reason, too_long.field) == ("PROMPT_TOO_LONG", "prompt")
    assert too_long.why
    assert too_long.fix.startswith("Shorten the prompt")
    unknown = asked(tiny_base)
    unknown.adapter_digest = digest.of_bytes(b"nothing")
    assert (await failure(stubs, unknown)).field == "adapter_digest"
    not_an_adapter = asked(tiny_base)
    not_an_adapter.adapter_digest = digest.of_file(tiny_base)
    assert "not an adapter" in str(await failure(stubs, not_an_adapter))
    assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_a_file_that_is_no_model(stubs: Stubs) -> None:
    data = b"GGUF but nothing of it" * 10
    await stubs.put(digest.of_bytes(data), data, BASE)
    request = GenerateRequest(base_digest=digest.of_bytes(data), prompt="x")
    assert isinstance(await failure(stubs, request), errors.InvalidRequest)
    listed = await stubs.artifacts.ListArtifacts(artifact_pb2.ListArtifactsRequest())
    assert not any(artifact.pins for artifact in listed.artifacts)


async def test_a_model_that_cannot_be_loaded_does_not_cost_the_one_that_is(
    stubs: Stubs, tiny_base: Path
) -> None:
    base = digest.of_file(tiny_base)
    await stubs.inference.LoadModel(LoadModelRequest(base_digest=base))
    garbage = b"no model"
    await stubs.put(digest.of_bytes(garbage), garbage, BASE)
    for other in (digest.of_bytes(b"unknown"), digest.of_bytes(garbage)):
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.inference.LoadModel(LoadModelRequest(base_digest=other))
        assert (await device(stubs)).loaded_model.base_digest == base


async def test_what_is_no_adapter_does_not_hide_the_others(stubs: Stubs) -> None:
    garbage = b"no adapter"
    await stubs.put(digest.of_bytes(garbage), garbage, artifact_pb2.ARTIFACT_KIND_ADAPTER)
    listed = await stubs.inference.ListAdapters(inference_pb2.ListAdaptersRequest())
    assert not listed.adapters


async def test_an_imported_adapter_is_listed_without_a_loss(
    stubs: Stubs, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    archive = packed_adapter(tmp_path / "persona", tiny_folder, tiny_base)
    await stubs.put(digest.of_bytes(archive), archive, artifact_pb2.ARTIFACT_KIND_ADAPTER)
    listed = await stubs.inference.ListAdapters(inference_pb2.ListAdaptersRequest())
    (found,) = [one for one in listed.adapters if one.digest == digest.of_bytes(archive)]
    assert (found.name, found.rank, found.HasField("final_loss")) == ("persona", 8, False)


def packed_adapter(folder: Path, tiny_folder: Path, base: Path) -> bytes:
    """An adapter of the base that was imported."""
    shapes.write_adapter(shapes.load(tiny_folder), folder, strength=0.5)
    convert_adapter(folder, base, folder / adapter.GGUF)
    zeros = digest.of_bytes(b"")
    manifest = adapter.AdapterManifest(
        name="persona", base_digest=digest.of_file(base), tokenizer_digest=zeros, rank=8,
        alpha=16.0, targets=("q_proj",), created_utc_ns=0, imported_from="peft",
    )  # fmt: skip
    (folder / adapter.MANIFEST).write_bytes(manifest.to_json())
    adapter.pack(folder, folder.with_suffix(".tar"))
    return folder.with_suffix(".tar").read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_setting_chooses_the_engine_and_its_file_of_an_adapter(
    engine: str, daemon: Daemon, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    archive = packed_adapter(tmp_path / "persona", tiny_folder, tiny_base)
    daemon.write_config(f'[inference]\nthreads = 1\ncontext_length = 256\nengine = "{engine}"\n')
    daemon.start()
    async with daemon.stubs() as stubs:
        data = await asyncio.to_thread(tiny_base.read_bytes)
        await stubs.put(digest.of_bytes(data), data, BASE)
        await stubs.put(digest.of_bytes(archive), archive, artifact_pb2.ARTIFACT_KIND_ADAPTER)
        request = asked(tiny_base)
        plain = tokens(await answer(stubs, request))
        request.adapter_digest = digest.of_bytes(archive)
        assert tokens(await answer(stubs, request)) != plain
    assert (daemon.state / "engine/proved" / engine).is_file()
    daemon.stop()


def test_a_setting_that_names_no_engine_is_refused(daemon: Daemon) -> None:
    daemon.write_config('[inference]\nengine = "onnx"\n')
    said, _ = daemon.run("run").communicate()
    assert "inference.engine: The inference engine 'onnx' is unknown." in said
    assert "Did you mean onnxruntime?" in said


async def test_embeddings_and_scores(stubs: Stubs, tiny_base: Path) -> None:
    base = digest.of_file(tiny_base)
    embed = inference_pb2.EmbedRequest(base_digest=base, texts=["the sea", "a robot"])
    vectors = [response async for response in stubs.inference.Embed(embed)]
    assert [vector.index for vector in vectors] == [0, 1]
    assert len(vectors[0].embedding) == 128
    items = [inference_pb2.ScoreItem(prompt="the", completion=" sea")] * 40
    score = inference_pb2.ScoreRequest(base_digest=base, items=items)
    scores = [response async for response in stubs.inference.Score(score)]
    assert [found.index for found in scores] == list(range(40))
    assert all(found.logprob_sum < 0 for found in scores)


async def test_wrong_texts_and_items(stubs: Stubs, tiny_base: Path) -> None:
    base = digest.of_file(tiny_base)
    item = inference_pb2.ScoreItem(completion="x")
    both = inference_pb2.ScoreItem(completion="x", chat=inference_pb2.Chat())
    wrong = [
        (stubs.inference.Embed, inference_pb2.EmbedRequest(base_digest=base), "texts"),
        (
            stubs.inference.Embed,
            inference_pb2.EmbedRequest(base_digest=base, texts=["x"] * 257),
            "texts",
        ),
        (
            stubs.inference.Embed,
            inference_pb2.EmbedRequest(base_digest=base, texts=["x", ""]),
            "texts",
        ),
        (stubs.inference.Score, inference_pb2.ScoreRequest(base_digest=base), "items"),
        (
            stubs.inference.Score,
            inference_pb2.ScoreRequest(base_digest=base, items=[both]),
            "items",
        ),
        (
            stubs.inference.Score,
            inference_pb2.ScoreRequest(base_digest=base, items=[item], priority=9),
            "priority",
        ),
        (
            stubs.inference.Score,
            inference_pb2.ScoreRequest(base_digest=base, items=[item], deadline_s=-1),
            "deadline_s",
        ),
    ]
    for method, request, field in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [response async for response in method(request)]
        error = status.from_rpc_error(caught.value, "the device")
        assert (type(error), error.field) == (errors.InvalidRequest, field)
    assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_an_answer_by_a_grammar_and_one_that_is_none(stubs: Stubs, tiny_base: Path) -> None:
    request = asked(tiny_base)
    request.gbnf = 'root ::= "yes" | "no"'
    request.top_logprobs = 1
    responses = await answer(stubs, request)
    assert "".join(response.text for response in responses) in ("yes", "no")
    assert responses[-1].finish_reason == inference_pb2.FINISH_REASON_STOP
    logprobs = [entry for response in responses for entry in response.logprobs]
    assert [entry.chosen.token_id for entry in logprobs] == tokens(responses)
    request.gbnf = "root ::= other"
    error = await failure(stubs, request)
    assert (error.reason, error.field) == ("INVALID_GRAMMAR", "gbnf")
    assert "Line 1, column 10" in error.why
    assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_a_request_whose_turn_does_not_come_in_time(stubs: Stubs, tiny_base: Path) -> None:
    """While the worker stands still, as if it were busy for a long time."""
    await stubs.inference.LoadModel(LoadModelRequest(base_digest=digest.of_file(tiny_base)))
    pid = await worker_pid(stubs)
    os.kill(pid, signal.SIGSTOP)
    late = asked(tiny_base)
    late.deadline_s = 0.05
    waiting = asyncio.create_task(failure(stubs, late))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [r async for r in stubs.inference.Generate(asked(tiny_base), timeout=0.2)]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    os.kill(pid, signal.SIGCONT)
    error = await waiting
    assert (type(error), error.reason) == (errors.TimedOut, "DEADLINE_PASSED")
    assert len(tokens(await answer(stubs, asked(tiny_base)))) == 12


async def test_more_requests_than_may_wait_are_told_when_to_come(
    stubs: Stubs, tiny_base: Path
) -> None:
    await answer(stubs, asked(tiny_base, max_tokens=100))
    pid = await worker_pid(stubs)
    os.kill(pid, signal.SIGSTOP)
    calls = [stubs.inference.Generate(asked(tiny_base, max_tokens=4)) for _ in range(32)]
    await device(stubs)  # a later call on the same connection: the earlier ones are in flight
    refused = await failure(stubs, asked(tiny_base))
    os.kill(pid, signal.SIGCONT)
    assert isinstance(refused, errors.Busy)
    assert refused.retry_after_s is not None
    # Sixteen times what the first request took, or what is left of it by several at once.
    assert 0.1 <= refused.retry_after_s < 60
    for call in calls:
        assert len(tokens([response async for response in call])) == 4
