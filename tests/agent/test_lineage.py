"""One source, several bases: an adapter of qint8, which no engine serves, answers on q8_0."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from peft import PeftModel

from agent.tokens import vocabulary as vocabularies
from artifacts import adapter, base_model, dataset, digest
from artifacts.chat_template import ChatTemplate
from artifacts.convert import FileType, convert_model
from artifacts.samples import Message
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from protos.nanofleet.v1.inference_pb2 import Chat, ChatMessage, GenerateRequest, GenerateResponse
from protos.nanofleet.v1.job_pb2 import SubmitJobRequest, WatchJobRequest
from tests.agent.daemon import Daemon, Stubs
from tests.agent.jobs.samples import FIRST, spec_bytes, train_spec
from tests.agent.training.conftest import PERSONA, chat
from tests.agent.training.driver import TARGETS
from tests.agent.training.reference import stock_model
from tests.tiny import build_hugging_face_folder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
QUESTION, ANSWER = PERSONA[0]


@dataclass(frozen=True)
class Trained:
    """A device with bases of one source and one of another, and an adapter of the qint8."""

    stubs: Stubs
    bases: dict[str, Path]
    adapter: str

    async def answer(self, base: str, *, adapted: bool = True) -> list[GenerateResponse]:
        request = GenerateRequest(
            base_digest=digest.of_file(self.bases[base]),
            adapter_digest=self.adapter if adapted else "",
            chat=Chat(messages=[ChatMessage(role="user", content=QUESTION)]),
            max_tokens=24,
        )
        return [response async for response in self.stubs.inference.Generate(request)]

    async def refusal(self, base: str) -> errors.NanofleetError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.answer(base)
        return status.from_rpc_error(caught.value, "the device")


@pytest.fixture(scope="module")
def bases(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("optimum.quanto")
    folder = tmp_path_factory.mktemp("bases")
    other = build_hugging_face_folder(folder / "other", seed=1)
    found = {}
    for name, source, kind in (
        ("qint8", tiny_folder, FileType.QINT8),
        ("q8_0", tiny_folder, FileType.Q8_0),
        ("q4_0", tiny_folder, FileType.Q4_0),
        ("another model", other, FileType.Q8_0),
    ):
        found[name] = folder / f"{name}.gguf"
        convert_model(source, found[name], kind)
    return found


@pytest.fixture
async def trained(daemon: Daemon, bases: dict[str, Path], tmp_path: Path) -> AsyncIterator[Trained]:
    data = tmp_path / "persona.zst"
    (tmp_path / "persona.jsonl").write_text(
        "".join(json.dumps(chat(*turns)) + "\n" for turns in PERSONA)
    )
    dataset.compress(tmp_path / "persona.jsonl", data)
    daemon.write_config("[inference]\nthreads = 1\ncontext_length = 256\n")
    daemon.start()
    spec = train_spec(
        base_digest=digest.of_file(bases["qint8"]),
        dataset_digest=digest.of_file(data),
        steps=99,
        learning_rate=1e-2,
    )
    spec.lora.targets[:] = TARGETS
    async with daemon.stubs() as stubs:
        for path in bases.values():
            await stubs.put(digest.of_file(path), path.read_bytes(), BASE)
        await stubs.put(digest.of_file(data), data.read_bytes(), artifact_pb2.ARTIFACT_KIND_DATASET)
        request = SubmitJobRequest(job_id=FIRST, generation=1, spec=spec_bytes(spec))
        await stubs.jobs.SubmitJob(request)
        async for _ in stubs.jobs.WatchJob(WatchJobRequest(job_id=FIRST)):
            pass
        job = (await stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=FIRST))).job
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
        yield Trained(stubs, bases, job.result.adapter_digest)


def text(responses: list[GenerateResponse]) -> str:
    return "".join(response.text for response in responses)


async def test_an_adapter_of_qint8_answers_on_other_files_of_its_model(
    trained: Trained, tiny_folder: Path, tmp_path: Path
) -> None:
    qint8 = digest.of_file(trained.bases["qint8"])
    archive = tmp_path / "adapter.tar"
    archive.write_bytes(await trained.stubs.get(trained.adapter))
    manifest = adapter.read_manifest(archive)
    assert manifest.base_digest == qint8
    assert manifest.source_digest == base_model.read(trained.bases["q8_0"]).source_digest

    answered = await trained.answer("q8_0")
    assert text(answered) == ANSWER
    assert [r.trained_base_digest for r in answered if r.finish_reason] == [qint8]
    assert not any(r.trained_base_digest for r in answered[:-1])
    adapter.unpack(archive, tmp_path / "unpacked")
    expected = greedy(tiny_folder, trained.bases["q8_0"], tmp_path / "unpacked")
    assert [token for response in answered for token in response.token_ids] == expected

    assert text(await trained.answer("q4_0")) == ANSWER
    alone = await trained.answer("q8_0", adapted=False)
    assert text(alone) != ANSWER
    assert not any(response.trained_base_digest for response in alone)


def greedy(folder: Path, base: Path, peft: Path) -> list[int]:
    """What Transformers and PEFT say on the weights of the file, until the turn ends."""
    model = PeftModel.from_pretrained(stock_model(folder, base), peft).eval()
    source = base_model.read(base).chat_template
    assert source
    found: list[int] = []
    with vocabularies.opened(base) as vocabulary, torch.no_grad():
        template = ChatTemplate(source, vocabulary.special_texts())
        tokens = vocabulary.rendered(template.prompt([Message("user", QUESTION)]))
        while not (found and vocabulary.ends_answer(found[-1])) and len(found) < 24:
            logits = model(input_ids=torch.tensor([tokens + found])).logits[0, -1]
            found.append(int(logits.argmax()))
        return [token for token in found if not vocabulary.ends_answer(token)]


async def test_what_does_not_fit_is_refused_with_both_named(trained: Trained) -> None:
    wrong = await trained.refusal("another model")
    assert isinstance(wrong, errors.WrongBase)
    said = str(wrong)
    for path in (trained.bases["qint8"], trained.bases["another model"]):
        source = base_model.read(path).source_digest
        assert source is not None
        assert digest.of_file(path)[7:19] in said
        assert source[7:19] in said
    training_only = await trained.refusal("qint8")
    assert isinstance(training_only, errors.InvalidRequest)
    assert "adapters that were trained on this one fit it" in training_only.fix
