"""The worker as the agent has it: a process, a pipe, a folder, and kills."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import Gemma3ForCausalLM

from agent.training import graph
from agent.training.examples import ExampleMaker
from agent.training.samples import TokenSample
from agent.training.weights import MappedWeights
from artifacts import adapter, digest
from artifacts.base_model import BaseModel
from artifacts.convert import FileType, convert_model
from artifacts.samples import ChatSample, Message
from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests.agent.training import hand_made
from tests.agent.training.conftest import PERSONA, chat
from tests.agent.training.driver import (
    BASE_DIGEST,
    DATASET_DIGEST,
    TARGETS,
    Worker,
    failure,
    losses,
    recipe,
)
from tests.agent.training.reference import stock_model
from tests.agent.training.test_masks import QWEN_3
from tests.llama import reference

SPEC = recipe(steps=60, lora_dropout=0.1, checkpoint_period_s=1, lora_rank=8, lora_alpha=16)


class Run:
    """A training that nothing disturbed."""

    def __init__(self, folder: Path, reports: list[worker_pb2.TrainingReport], log: str) -> None:
        self.folder = folder
        self.reports = reports
        self.log = log

    def only(self, kind: str) -> worker_pb2.TrainingReport:
        (found,) = [report for report in self.reports if report.WhichOneof("report") == kind]
        return found


@pytest.fixture(scope="module")
def run(tiny_base: Path, persona: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("jobs") / "undisturbed"
    with Worker(tiny_base, persona, folder, SPEC) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    return Run(folder, reports, worker.log())


def test_tells_how_it_starts_goes_and_ends(run: Run) -> None:
    kinds = [report.WhichOneof("report") for report in run.reports]
    assert kinds[:2] == ["log", "started"]
    assert run.reports[0].log.text.startswith("Tokenising the dataset")
    assert kinds[-2:] == ["checkpoint", "finished"]
    started = run.only("started").started
    assert (started.resumed_at_step, started.threads, started.samples) == (0, 1, 5)
    assert (started.device, started.data_type) == ("cpu", "float32")
    assert started.device_reason == "Training on the processor, as asked."
    assert list(losses(run.reports)) == list(range(1, 61))

    result = run.only("finished").finished.result
    steps = [r.progress for r in run.reports if r.WhichOneof("report") == "progress"]
    assert (result.first_loss, result.final_loss) == (steps[0].loss, steps[-1].loss)
    assert result.final_loss < result.first_loss / 4
    assert result.steps == 60
    assert not result.HasField("energy_j")
    assert steps[-1].time_to_go_s == 0
    assert result.duration_s > 0
    assert result.peak_rss_bytes > result.peak_anonymous_bytes > 0
    assert "Traceback" not in run.log


def test_each_step_is_a_line_of_the_log(run: Run) -> None:
    lines = [line for line in run.log.splitlines() if line.startswith("step ")]
    assert len(lines) == 60
    pattern = r"step 60/60  loss \d\.\d+  learning rate \S+  gradient norm \S+  \d+\.\d tokens/s"
    assert re.fullmatch(pattern, lines[-1])


def test_stages_with_evaluation_survive_kills(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """Killed in each stage and while it evaluates: all numbers are those of an uncut run."""
    spec = recipe(steps=12, lora_dropout=0.1, checkpoint_period_s=1, packing=True)
    second = spec.stages.add()
    second.CopyFrom(spec.stages[0])
    second.learning_rate = 5e-3
    spec.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.3, period_steps=4))
    with Worker(tiny_base, persona, tmp_path / "uncut", spec) as worker:
        uncut = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    seen: list[worker_pb2.TrainingReport] = []
    for wanted in (7, 13, 22):
        with Worker(tiny_base, persona, tmp_path / "cut", spec) as worker:
            seen += worker.until(lambda r, wanted=wanted: r.progress.step >= wanted)  # type: ignore[misc]
            worker.process.kill()
    with Worker(tiny_base, persona, tmp_path / "cut", spec) as worker:
        seen += worker.finish()
        assert worker.process.returncode == 0, worker.log()
    assert losses(seen) == losses(uncut)
    assert evaluations(seen) == evaluations(uncut)
    assert sorted(evaluations(uncut)) == [4, 8, 12, 16, 20, 24]
    result = uncut[-1].finished.result
    best = min(loss for step, loss in evaluations(uncut).items() if step > 12)
    assert result.best.loss == best
    assert result.best.stage == 2
    assert not result.stopped_early
    cut = seen[-1].finished.result
    assert (cut.best.loss, cut.best.step) == (result.best.loss, result.best.step)
    found = [read_adapter(reports[-1], tmp_path) for reports in (uncut, seen)]
    assert found[0] == found[1]


def evaluations(reports: list[worker_pb2.TrainingReport]) -> dict[int, float]:
    found = [r.evaluated for r in reports if r.WhichOneof("report") == "evaluated"]
    return {evaluated.step: evaluated.loss for evaluated in found}


def read_adapter(report: worker_pb2.TrainingReport, folder: Path) -> bytes:
    path = Path(report.finished.adapter_path)
    target = folder / f"unpacked-{path.parent.name}"
    adapter.unpack(path, target)
    return (target / adapter.SAFETENSORS).read_bytes()


def test_the_result_is_one_archive(run: Run, tmp_path: Path) -> None:
    finished = run.only("finished").finished
    path = Path(finished.adapter_path)
    assert path == run.folder / "adapter.tar"
    assert finished.result.adapter_digest == digest.of_file(path)
    assert finished.result.adapter_size_bytes == path.stat().st_size
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "adapter.tar",
        "checkpoints",
        "tokens-0.bin",
    ]
    manifest = adapter.read_manifest(path)
    assert (manifest.name, manifest.base_digest) == ("persona", BASE_DIGEST)
    assert (manifest.rank, manifest.alpha, manifest.targets) == (8, 16, tuple(sorted(TARGETS)))
    record = manifest.training
    assert record is not None
    assert record.dataset_digest == DATASET_DIGEST
    assert record.final_loss == finished.result.final_loss
    assert (record.recipe["stages"][0]["warmup_fraction"], record.recipe["seed"]) == (0.1, 7)
    adapter.unpack(path, tmp_path / "adapter")


@pytest.fixture(scope="module")
def unpacked(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "persona"
    adapter.unpack(run.folder / "adapter.tar", folder)
    return folder


def answer(maker: ExampleMaker, number: int) -> tuple[list[int], list[int]]:
    """Prompt and answer of a persona sample, as tokens."""
    question, text = PERSONA[number]
    (example,) = maker.make(ChatSample(1, (Message("user", question), Message("assistant", text))))
    start = example.labelled.index(True)
    return example.tokens[:start], example.tokens[start:]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_peft_loads_it_unchanged(tiny_folder: Path, unpacked: Path, maker: ExampleMaker) -> None:
    """On the original checkpoint, with its own exact weights, the answers come out as learned."""
    stock = Gemma3ForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(stock, unpacked).eval()
    correct = 0
    for number in range(len(PERSONA)):
        prompt, expected = answer(maker, number)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + expected])).logits[0]
        correct += logits[len(prompt) - 1 : -1].argmax(-1).tolist() == expected
    assert correct >= len(PERSONA) - 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_all_three_compute_the_same(
    tiny_folder: Path, base: BaseModel, unpacked: Path, maker: ExampleMaker
) -> None:
    """The trainer's graph, PEFT with the exported files, llama.cpp with the GGUF LoRA."""
    spec = job_pb2.TrainSpec()
    spec.CopyFrom(SPEC)
    spec.lora.dropout = 0
    weights = MappedWeights(base, torch.float32)
    ours = graph.build(base, weights, spec)
    for name, tensor in load_file(unpacked / "adapter_model.safetensors").items():
        ours.parameters[name.removeprefix("base_model.model.model.")].data.copy_(tensor)
    peft = PeftModel.from_pretrained(stock_model(tiny_folder, base.path), unpacked).eval()
    # Longer than the sliding window.
    tokens = [token for number in range(len(PERSONA)) for part in answer(maker, number)
              for token in part]  # fmt: skip
    with torch.no_grad(), reference(base.path) as llama:
        theirs = peft(input_ids=torch.tensor([tokens])).logits[0]
        for place in range(1, len(tokens)):
            sample = TokenSample(torch.tensor(tokens[: place + 1]), torch.tensor([place]))
            expected = -torch.log_softmax(theirs[place - 1], 0)[tokens[place]]
            assert ours.summed_loss(sample).item() == pytest.approx(expected.item(), abs=2e-4)
        without = torch.log_softmax(torch.tensor(llama.logits(tokens)), -1)
        llama.use_adapter(unpacked / "adapter.gguf")
        found = torch.log_softmax(torch.tensor(llama.logits(tokens)), -1)
    exact = torch.log_softmax(theirs, -1)
    noise = functional.kl_div(found, exact, reduction="batchmean", log_target=True)
    adapted = functional.kl_div(without, exact, reduction="batchmean", log_target=True)
    assert noise < 0.01, noise
    assert adapted > 100 * noise


def test_llama_says_what_was_learned(tiny_base: Path, unpacked: Path, maker: ExampleMaker) -> None:
    prompt, expected = answer(maker, 0)
    with reference(tiny_base) as model:
        before = model.logits(prompt)[-1]
        assert model.greedy(prompt, len(expected)) != expected
        model.use_adapter(unpacked / "adapter.gguf")
        assert model.greedy(prompt, len(expected)) == expected
        assert not np.allclose(before, model.logits(prompt)[-1])


def test_a_qint8_base_is_trained_all_the_way(
    tiny_folder: Path, persona: Path, tmp_path: Path
) -> None:
    """With llama.cpp's tokenizer from the file of a type that llama.cpp does not compute with."""
    pytest.importorskip("optimum.quanto")
    base = tmp_path / "base.gguf"
    convert_model(tiny_folder, base, FileType.QINT8)
    with Worker(base, persona, tmp_path / "job", recipe(steps=40, lora_rank=8)) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    assert reports[-1].HasField("finished")
    loss = {step: float.fromhex(found) for step, found in losses(reports).items()}
    assert loss[max(loss)] < 0.5 * loss[min(loss)]


def test_a_conversation_is_one_sample_whatever_the_template_makes_of_it(
    dataset: Callable[..., Path], tmp_path: Path
) -> None:
    """Steps and held-out share are counted by lines, as the controller does; the log says more."""
    base = hand_made.build("qwen2", tmp_path / "thinking", QWEN_3)
    lines = [chat(*("Hi", "Hello") * number) for number in (1, 2, 3)]
    spec = recipe(dataset_name="talks.jsonl", steps=3, accumulation=2)
    spec.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.3, period_steps=3))
    with Worker(base, dataset(*lines), tmp_path / "job", spec) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    (said,) = [r.log.text for r in reports if "are read as" in r.log.text]
    assert "talks.jsonl: 3 samples are read as 6 examples" in said
    (started,) = [r.started for r in reports if r.HasField("started")]
    (evaluated,) = [r.evaluated for r in reports if r.HasField("evaluated")]
    assert (started.samples, evaluated.samples) == (2, 1)
    # 15 for the thoughts, "Hello" and the end of each answer: all of a conversation's or none.
    answers = [15 + 2] * 6
    assert started.labelled_tokens + evaluated.tokens == sum(answers)
    assert evaluated.tokens in (17, 34, 51)
    assert sorted(losses(reports)) == [1, 2, 3]


def test_kills_stops_and_pauses_change_no_number(
    run: Run, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """Three attempts of one job: stopped, killed, then paused on the way to its end.

    The first checkpoint is one that was asked for: one that comes with time may come too late.
    """
    expected = losses(run.reports)
    folder = tmp_path / "disturbed"

    with Worker(tiny_base, persona, folder, SPEC) as worker:
        begin = worker.until(lambda r: r.progress.step > 0)
        worker.send(stop=worker_pb2.StopTraining())
        stopped = worker.finish()
        assert worker.process.returncode == 0
        assert stopped[-1].WhichOneof("report") == "stopped"

    # Another thread count would change the numbers: the checkpoint's is kept.
    with Worker(tiny_base, persona, folder, SPEC, threads=2) as worker:
        started = worker.until(lambda r: r.WhichOneof("report") == "started")
        assert started[-1].started.threads == 1
        assert started[-1].started.resumed_at_step == stopped[-1].stopped.step > 0
        assert "Going on with 1 threads" in started[0].log.text
        killed = worker.until(lambda r: r.progress.step > 0)
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()

    with Worker(tiny_base, persona, folder, SPEC) as worker:
        started = worker.until(lambda r: r.WhichOneof("report") == "started")
        assert started[-1].started.resumed_at_step >= stopped[-1].stopped.step
        worker.send(pause=worker_pb2.PauseTraining())
        paused = worker.until(lambda r: r.WhichOneof("report") == "paused")
        worker.send(resume=worker_pb2.ResumeTraining())
        last = worker.finish()
        assert last[-1].WhichOneof("report") == "finished", worker.log()

    found = losses([*begin, *stopped, *killed, *paused, *last])
    assert found == {step: loss for step, loss in expected.items() if step in found}
    assert 60 in found
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    adapter.unpack(folder / "adapter.tar", ours)
    adapter.unpack(run.folder / "adapter.tar", theirs)
    for name in ("adapter_model.safetensors", "adapter_config.json", "adapter.gguf"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_a_damaged_checkpoint_costs_the_way_to_the_one_before(
    run: Run, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """One bit of the newest has fallen over; the losses are those of an undisturbed run."""
    folder = tmp_path / "damaged"
    for _ in range(2):
        with Worker(tiny_base, persona, folder, SPEC) as worker:
            worker.until(lambda r: r.progress.step > 0)
            worker.send(stop=worker_pb2.StopTraining())
            worker.finish()
    older, newer = sorted((folder / "checkpoints").iterdir())
    content = newer.read_bytes()
    newer.write_bytes(bytes((*content[:-1], content[-1] ^ 1)))
    with Worker(tiny_base, persona, folder, SPEC) as worker:
        reports = worker.finish()
    said = [report.log.text for report in reports if report.HasField("log")]
    assert any(newer.name in line and "The one before it is used." in line for line in said)
    found, expected = losses(reports), losses(run.reports)
    assert found == {step: loss for step, loss in expected.items() if step in found}
    assert min(found) == 1 + int(older.stem) // SPEC.accumulation


def test_a_finished_training_is_only_packed_again(
    run: Run, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """Killed between its end and its report: nothing is trained twice."""
    folder = tmp_path / "again"
    shutil.copytree(run.folder, folder)
    (folder / "adapter.tar").unlink()
    (folder / "adapter").mkdir()
    with Worker(tiny_base, persona, folder, SPEC) as worker:
        reports = worker.finish()
    assert [report.WhichOneof("report") for report in reports] == ["started", "finished"]
    first, second = run.only("finished").finished.result, reports[-1].finished.result
    assert (first.final_loss, first.trained_tokens) == (second.final_loss, second.trained_tokens)


def test_nothing_is_published_without_a_lease(
    run: Run, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """All is trained and nothing is left but the rename: another device may have the job by now."""
    folder = tmp_path / "lapsed"
    shutil.copytree(run.folder, folder)
    (folder / "adapter.tar").unlink()
    worker = Worker(tiny_base, persona, folder, SPEC)
    worker.start.lease_until_boottime_ns = 1
    with worker:
        last = worker.finish()[-1]
    assert last.stopped == worker_pb2.TrainingStopped(step=60, lease_ended=True)
    assert not list(folder.glob("*adapter*")), "neither the adapter nor what it was packed from"


def test_the_retry_after_lack_of_memory_takes_the_least_and_goes_on(
    run: Run, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    spec = recipe(steps=2, stored_layers=2)
    worker = Worker(tiny_base, persona, tmp_path / "job", spec)
    worker.start.least_memory = True
    with worker:
        reports = worker.finish()
    said = [report.log.text for report in reports if report.HasField("log")]
    assert any("no stored layers, 512 rows of the head at a time" in line for line in said)
    assert reports[-1].finished.result.steps == 2


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([chat("Hi", "Ho"), {"messages": []}], "-my data.jsonl:2: "),
        ([chat("Hi", "Ho"), chat("Hi", "word " * 200)], "-my data.jsonl:2: the sample has "),
        (
            [{"prompt": "Hi", "completion": "Ho"}, {"text": "Ho"}],
            "-my data.jsonl:2: this sample is text",
        ),
        ([], "-my data.jsonl has no samples"),
    ],
)
def test_bad_data_is_named_by_its_line(
    tiny_base: Path,
    dataset: Callable[..., Path],
    tmp_path: Path,
    samples: list[object],
    message: str,
) -> None:
    spec = recipe(dataset_name="-my data.jsonl")
    with Worker(tiny_base, dataset(*samples), tmp_path / "job", spec) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 1
    found = failure(reports)
    assert found.cause == job_pb2.CAUSE_BAD_DATA
    assert message in found.message
    # The details are in the log.
    assert "Traceback" in worker.log()
    assert not (tmp_path / "job" / "tokens-0.bin").exists()


def test_a_bad_recipe_is_refused_before_anything_is_made(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    with Worker(tiny_base, persona, tmp_path / "job", recipe(lora_rank=0)) as worker:
        found = failure(worker.finish())
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert "lora.rank is 0" in found.message
    assert not (tmp_path / "job").exists()


def test_a_damaged_base_is_refused(persona: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF, but not really")
    with Worker(base, persona, tmp_path / "job", recipe()) as worker:
        found = failure(worker.finish())
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert "base.gguf" in found.message


def test_the_worker_is_light_until_it_trains() -> None:
    """It attaches at once, and the tokenizer's memory is never its own."""
    program = (
        "import sys, agent.training.worker\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'llama_cpp', 'jinja2', 'gguf'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert child.stdout.decode().strip() == "[]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_a_device_without_a_gpu_says_so_and_trains_on_the_processor(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    for asked in ("", "cuda"):
        with Worker(tiny_base, persona, tmp_path / f"job{asked}", SPEC, device=asked) as worker:
            started = worker.until(lambda r: r.WhichOneof("report") == "started")[-1].started
        assert started.device == "cpu"
        assert started.device_reason == "Training on the processor: torch finds no GPU."
