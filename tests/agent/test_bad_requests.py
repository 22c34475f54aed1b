"""What is wrong with one request, on a real agent: a typed error to that client, while another's
answer goes on beside it, and the next request is served."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from artifacts import adapter, digest
from artifacts.convert import convert_adapter
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from tests.agent.daemon import Daemon, Stubs
from tests.agent.inference.test_worker import END_TOKENS
from tests.agent.test_serving import (
    BASE,
    answer,
    asked,
    failure,
    packed_adapter,
    tokens,
    worker_pid,
)

ADAPTER = artifact_pb2.ARTIFACT_KIND_ADAPTER
SETTINGS = "[inference]\nthreads = 1\ncontext_length = 1024\nstreams = 4\n"


@dataclass(frozen=True)
class Kitchen:
    stubs: Stubs
    base: Path
    # Adapters whose weights give no numbers, and of another base.
    broken: str
    foreign: str

    def asked(self, **changes: object) -> GenerateRequest:
        request = asked(self.base)
        request.MergeFrom(GenerateRequest(**changes))  # type: ignore[arg-type]
        return request


@pytest.fixture(scope="module")
def archives(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny_base: Path
) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("adapters")
    good = packed_adapter(folder / "good", tiny_folder, tiny_base)
    weights = folder / "good" / "adapter_model.safetensors"
    found = load_file(weights)
    loud = {name: np.asarray(value * 3e37, value.dtype) for name, value in found.items()}
    save_file(loud, weights)
    convert_adapter(folder / "good", tiny_base, folder / "good" / adapter.GGUF)
    adapter.pack(folder / "good", folder / "broken.tar")
    zeros = digest.of_bytes(b"another base").encode()
    foreign = good.replace(digest.of_file(tiny_base).encode(), zeros)
    return (folder / "broken.tar").read_bytes(), foreign


@pytest.fixture
async def kitchen(
    daemon: Daemon, tiny_base: Path, archives: tuple[bytes, bytes]
) -> AsyncIterator[Kitchen]:
    daemon.write_config(SETTINGS)
    daemon.start()
    async with daemon.stubs() as stubs:
        data = await asyncio.to_thread(tiny_base.read_bytes)
        await stubs.put(digest.of_bytes(data), data, BASE)
        for archive in archives:
            await stubs.put(digest.of_bytes(archive), archive, ADAPTER)
        yield Kitchen(stubs, tiny_base, *map(digest.of_bytes, archives))


Row = Callable[[Kitchen], GenerateRequest]
ROWS: dict[str, tuple[Row, type[errors.NanofleetError], str, str]] = {
    "a prompt longer than the context": (
        lambda kitchen: kitchen.asked(prompt="word " * 2000),
        errors.InvalidRequest, "PROMPT_TOO_LONG", "prompt",
    ),
    "an adapter for another base": (
        lambda kitchen: kitchen.asked(adapter_digest=kitchen.foreign),
        errors.WrongBase, "WRONG_BASE", "adapter_digest",
    ),
    "a grammar that does not compile": (
        lambda kitchen: kitchen.asked(gbnf="root ::= other"),
        errors.InvalidRequest, "INVALID_GRAMMAR", "gbnf",
    ),
    "a schema that cannot be said": (
        lambda kitchen: kitchen.asked(json_schema='{"not": {}}'),
        errors.InvalidRequest, "INVALID_GRAMMAR", "json_schema",
    ),
    "an unknown model": (
        lambda kitchen: kitchen.asked(base_digest=digest.of_bytes(b"unknown")),
        errors.NotFound, "NOT_FOUND", "base_digest",
    ),
    "an unknown adapter": (
        lambda kitchen: kitchen.asked(adapter_digest=digest.of_bytes(b"unknown")),
        errors.NotFound, "NOT_FOUND", "adapter_digest",
    ),
    "logits that are no numbers": (
        lambda kitchen: kitchen.asked(adapter_digest=kitchen.broken),
        errors.Refused, "NON_FINITE_LOGITS", "adapter_digest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
async def test_a_row(row: str, kitchen: Kitchen) -> None:
    make, kind, reason, field = ROWS[row]
    expected = tokens(await answer(kitchen.stubs, kitchen.asked(max_tokens=150)))
    beside = asyncio.create_task(answer(kitchen.stubs, kitchen.asked(max_tokens=150)))
    error = await failure(kitchen.stubs, make(kitchen))
    assert (type(error), error.reason, error.field) == (kind, reason, field)
    assert error.what
    assert error.why or error.fix
    assert tokens(await beside) == expected
    assert tokens(await answer(kitchen.stubs, kitchen.asked(max_tokens=150))) == expected


async def test_a_worker_that_is_killed_in_the_middle_of_an_answer(kitchen: Kitchen) -> None:
    expected = tokens(await answer(kitchen.stubs, kitchen.asked()))
    responses = aiter(kitchen.stubs.inference.Generate(endless(kitchen)))
    await anext(responses)
    pid = await worker_pid(kitchen.stubs)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [response async for response in responses]
    error = status.from_rpc_error(caught.value, "the device")
    assert isinstance(error, errors.WorkerFailed)
    assert "SIGKILL" in error.what
    assert "Send the request again" in error.fix
    assert tokens(await answer(kitchen.stubs, kitchen.asked())) == expected


async def test_a_client_that_stops_reading_holds_nobody_up(kitchen: Kitchen) -> None:
    """Its answer is longer than what the connection takes in advance, and loses nothing."""
    request = endless(kitchen)
    request.top_logprobs = 20
    still = aiter(kitchen.stubs.inference.Generate(request))
    first = await anext(still)
    for _ in range(3):
        assert len(tokens(await answer(kitchen.stubs, kitchen.asked()))) == 12
    responses = [first, *[response async for response in still]]
    assert responses[-1].usage.completion_tokens == len(tokens(responses)) == 900
    assert sum(len(response.logprobs) for response in responses) == 900


async def test_a_client_that_leaves_frees_its_place_at_once(kitchen: Kitchen) -> None:
    """All places are taken by those who leave; who comes then does not wait for their answers."""
    calls = [kitchen.stubs.inference.Generate(endless(kitchen)) for _ in range(4)]
    for call in calls:
        await call.read()
    whole_s = 900 / 12 * (await answer(kitchen.stubs, kitchen.asked()))[-1].usage.decode_s
    for call in calls:
        call.cancel()
    responses = await answer(kitchen.stubs, kitchen.asked())
    assert responses[-1].usage.queue_s < whole_s / 4


def endless(kitchen: Kitchen) -> GenerateRequest:
    """Neither an end nor a loop ends it before its 900 tokens."""
    request = kitchen.asked(max_tokens=900)
    request.sampling.temperature = 1.5
    for token in END_TOKENS:
        request.sampling.logit_bias[token] = float("-inf")
    return request
