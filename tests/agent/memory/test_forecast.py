"""The formulae against what was measured at 1B, and against both workers on the tiny model."""

import ctypes
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.inference import adapters, decoder
from agent.memory import forecast, settings, torch_build
from agent.memory.forecast import MB, Forecast, inference_forecast
from agent.memory.torch_build import CPU, CUDA, TorchBuild
from agent.training import attention, loss, weights
from artifacts import base_model, dataset
from jetson.memory import read_process
from protos.errors import InvalidRequest
from protos.nanofleet.v1.inference_pb2 import GenerateRequest
from tests.agent.inference.test_worker import spawned
from tests.agent.memory.models import ALL, ATTENTION, forecast_of, gemma_3_1b, recipe
from tests.agent.training import driver

# Of <linux/prctl.h>.
_PR_SET_THP_DISABLE = 41


@pytest.fixture
def small_pages() -> Iterator[None]:
    """The workers' libraries are mapped page by page, as on the boards.

    Where the page cache holds them in pieces of 2 MiB (newer kernels' ext4, depending on what the
    machine did before), one touched byte counts as 2 MiB of a worker's RSS: 140 MB for torch's in
    the place of 65. It is cache that the kernel takes back, and no forecast can know it.
    """
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    yield
    assert libc.prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0


def part(of: Forecast, name: str) -> int:
    return next(part.size_bytes for part in of.anonymous if part.name == name)


# A worker's job on Gemma 3 1B's shape: rank 8, 256 tokens, bfloat16, one thread.
@pytest.mark.parametrize(
    ("targets", "anonymous_mb", "peak_mb"), [(ATTENTION, 341, 1446), (ALL, 431, 1537)]
)
def test_training_at_1b_is_what_was_measured(
    targets: tuple[str, ...], anonymous_mb: int, peak_mb: int
) -> None:
    expected = forecast_of(gemma_3_1b(), recipe(targets=targets), 2)
    assert expected.anonymous_bytes == pytest.approx(anonymous_mb * MB, rel=0.05)
    assert expected.peak_bytes == pytest.approx(peak_mb * MB, rel=0.05)


# The same with a build of torch that has CUDA, on the processor.
@pytest.mark.parametrize(("targets", "peak_mb"), [(ATTENTION, 1600), (ALL, 1690)])
def test_a_build_with_cuda_takes_what_was_measured(targets: tuple[str, ...], peak_mb: int) -> None:
    expected = forecast_of(gemma_3_1b(), recipe(targets=targets), 2, torch=CUDA)
    assert expected.peak_bytes == pytest.approx(peak_mb * MB, rel=0.05)


def test_only_servers_that_import_torch_take_more_with_its_build() -> None:
    def peaks(build: TorchBuild) -> list[int]:
        served = (
            inference_forecast(gemma_3_1b(), 2048, engine, build) for engine in forecast.SERVERS
        )
        return [one.peak_bytes for one in served]

    more = [there - here for here, there in zip(peaks(CPU), peaks(CUDA), strict=True)]
    assert more == [0, 0, CUDA.anonymous_bytes + CUDA.loading_bytes]


def test_a_gpu_that_shares_the_boards_memory_holds_a_copy_also_at_rest() -> None:
    here, there = (forecast_of(gemma_3_1b(), recipe(), 2, shared_gpu=gpu) for gpu in (False, True))
    assert there.weights_bytes == 0
    assert there.peak_bytes == here.peak_bytes + forecast.CUDA_BYTES + forecast.GPU_SLAB_BYTES
    assert there.at_rest.anonymous_bytes - here.at_rest.anonymous_bytes == (
        here.weights_bytes + forecast.CUDA_BYTES
    )


def test_parts_of_a_server_at_1b_are_what_was_measured() -> None:
    served = inference_forecast(gemma_3_1b(), 2048)
    assert part(served, "KV cache") == 52 << 20
    assert part(served, "vocabulary") == pytest.approx(30 * MB, rel=0.02)
    # 26.1 MB each.
    assert part(served, "adapters") == pytest.approx(4 * 26.1 * MB, rel=0.01)
    assert served.file_bytes == pytest.approx(1_060 * MB, rel=0.05)


def test_server_without_adapters_at_512_stays_near_its_129_mb() -> None:
    """92 MB when it is open, 122 after a score, 129 after answers by a grammar."""
    served = inference_forecast(gemma_3_1b(), 512)
    own = served.anonymous_bytes - part(served, "adapters")
    assert 129 * MB <= own <= 1.1 * 129 * MB


def test_constants_are_those_of_the_workers() -> None:
    assert settings.HEAD_ROWS == loss.CHUNK_ROWS
    assert attention.BLOCK == forecast.TRAINER_QUERIES
    assert 4 * weights.GPU_SLAB == forecast.GPU_SLAB_BYTES
    assert forecast.SERVER_BATCH_TOKENS == decoder.BATCH_TOKENS
    assert forecast.SERVER_LOGIT_ROWS == 2 * decoder.OUTPUT_ROWS
    assert forecast.SERVER_ADAPTERS == adapters.KEPT


def test_longer_wider_and_more_stored_need_more() -> None:
    base = gemma_3_1b()
    plain = forecast_of(base, recipe()).anonymous_bytes
    for more in (recipe(tokens=512), recipe(rank=16), recipe(targets=ALL), recipe(stored=1)):
        assert forecast_of(base, more).anonymous_bytes > plain
    assert forecast_of(base, recipe(stored=26)) == forecast_of(base, recipe(stored=99))
    contexts = [inference_forecast(base, length).peak_bytes for length in (256, 2048, 8192)]
    assert contexts == sorted(contexts)


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "token_embd.weight"])
def test_model_of_another_kind_is_refused_by_name(name: str) -> None:
    known = gemma_3_1b()
    without = {key: value for key, value in known.tensors.items() if key != name}
    with pytest.raises(InvalidRequest, match=name):
        forecast_of(replace(known, tensors=without), recipe())


@pytest.mark.usefixtures("small_pages")
def test_training_worker_stays_within_its_forecast(tiny_base: Path, tmp_path: Path) -> None:
    source = tmp_path / "persona.jsonl"
    line = {"prompt": "Who are you?", "completion": "I am the robot of this kitchen. " * 4}
    numbered = [{**line, "prompt": f"{number}: {line['prompt']}"} for number in range(8)]
    source.write_text("".join(json.dumps(one) + "\n" for one in numbered))
    dataset.compress(source, tmp_path / "persona.zst")
    folder = tmp_path / "job"
    folder.mkdir()
    spec = driver.recipe(steps=3)
    with driver.Worker(tiny_base, tmp_path / "persona.zst", folder, spec) as worker:
        finished = worker.finish()[-1].finished
    expected = forecast_of(base_model.read(tiny_base), spec, torch=torch_build.installed())
    used = finished.result
    assert 0.5 * expected.anonymous_bytes < used.peak_anonymous_bytes <= expected.anonymous_bytes
    assert 0.5 * expected.peak_bytes < used.peak_rss_bytes <= expected.peak_bytes


# Resident with a context of 2048 and no adapter, after 265 tokens of prompt and 40 of answer; the
# copies of the weights dominate.
@pytest.mark.parametrize(
    ("engine", "anonymous_mb"), [("onnxruntime", 1392), ("transformers", 4375)]
)
def test_servers_that_copy_the_weights_at_1b_are_what_was_measured(
    engine: str, anonymous_mb: int
) -> None:
    served = inference_forecast(gemma_3_1b(), 2048, engine)
    # An answer needs one row of logits; 32 are for scores.
    unread_bytes = 28 * 262_144 * 4
    own = served.anonymous_bytes - part(served, "adapters") - unread_bytes
    assert anonymous_mb * MB <= own <= 1.08 * anonymous_mb * MB
    assert served.weights_bytes == 0


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("engine", forecast.SERVERS)
def test_inference_worker_stays_within_its_forecast(
    engine: str, tiny_base: Path, tmp_path: Path
) -> None:
    with spawned() as worker:
        worker.open(tiny_base, context_length=2048, engine=engine, cache=tmp_path)
        worker.answer(GenerateRequest(prompt="robot " * 100, max_tokens=30))
        used = read_process(worker.process.pid)
    assert used is not None
    build = torch_build.installed()
    expected = inference_forecast(base_model.read(tiny_base), 2048, engine, build)
    assert 0.5 * expected.anonymous_bytes < used.anonymous_bytes <= expected.anonymous_bytes
    assert used.peak_rss_bytes <= expected.peak_bytes
