"""A generation with a real model: whatever is left of its answers, it goes on to the same bytes."""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.batch.session import Session
from agent.workers.commands import Commands, Order
from artifacts import dataset
from artifacts.samples import CompletionSample
from protos.errors import InvalidDataset, InvalidRequest
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.worker_pb2 import StartGenerating, TrainingReport
from tests.agent.jobs.samples import generate_spec

TINY = Path(__file__).parents[3] / "controller/demo/tiny/tiny-gemma3.gguf"


class Orders(Commands):
    """Those that come before the tokens of these numbers; none from a pipe."""

    def __init__(self, orders: dict[int, Order]) -> None:
        self._asked = 0
        self._lease_end_ns = 0
        self._at = orders

    def next(self, timeout_s: float | None = 0) -> Order | None:
        self._asked += 1
        return self._at.get(self._asked)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all lengths below and above a batch of the engine, many with a common beginning."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    words = ["the", "robot", "lives", "in", "a", "kitchen", "by", "the", "sea"]
    lines = [
        {"topic": words[n % 9], "question": " ".join(words[m % 9] for m in range(3 + 11 * n % 70))}
        for n in range(16)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(
    folder: Path,
    questions: Path,
    orders: dict[int, Order] | None = None,
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
    **changes: object,
) -> list[TrainingReport]:
    folder.mkdir(exist_ok=True)
    start = StartGenerating(
        spec=generate_spec(**{"answers": 2, **changes}),
        base_path=str(TINY),
        dataset_path=str(questions),
        job_folder=str(folder),
        threads=threads,
    )
    reports: list[TrainingReport] = []
    Session(start, Orders(orders or {}), reports.append, clock=clock).run()
    return reports


def kinds(reports: list[TrainingReport]) -> list[str]:
    return [report.WhichOneof("report") or "" for report in reports]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, questions: Path) -> Path:
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    reports = run(folder, questions)
    assert kinds(reports)[-3:] == ["generated", "checkpoint", "finished"]
    return folder


def test_every_token_is_a_sign_of_getting_on(tmp_path: Path, questions: Path) -> None:
    """On a board that takes 20 s for each."""
    ticks = itertools.count(0.0, 20.0)
    reports = run(tmp_path / "job", questions, clock=lambda: next(ticks))
    made = reports[-1].finished.result.generated
    assert kinds(reports).count("beat") >= made.tokens - made.prompts * 2


def bytes_of(folder: Path) -> bytes:
    return (folder / "dataset.jsonl.zst").read_bytes()


def test_it_stops_between_two_tokens_and_goes_on_to_the_same_bytes(
    tmp_path: Path, questions: Path, whole: Path
) -> None:
    attempts, done = 0, 0
    while True:
        reports = run(tmp_path / "job", questions, {150: Order.STOP}, threads=1 + attempts % 2)
        attempts += 1
        if reports[-1].HasField("finished"):
            break
        assert reports[-1].stopped.step >= done
        done = reports[-1].stopped.step
    assert attempts > 3
    assert bytes_of(tmp_path / "job") == bytes_of(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: content + b'{"line": 1',
        lambda content: content[: len(content) // 2] + b"\0" * 500,
        lambda content: b"".join(content.splitlines(keepends=True)[:3]),
        lambda content: content.splitlines(keepends=True)[0],
        lambda content: content.replace(b'"line": 5,', b'"line": 55,', 1),
    ],
    ids=["torn", "appended", "zeros", "two answers", "none", "another line"],
)
def test_what_a_power_cut_leaves_of_the_answers_is_enough(
    tmp_path: Path, questions: Path, whole: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "answers.jsonl").write_bytes(damage((whole / "answers.jsonl").read_bytes()))
    run(tmp_path, questions)
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_complete_answers_need_no_model(tmp_path: Path, questions: Path, whole: Path) -> None:
    (tmp_path / "answers.jsonl").write_bytes((whole / "answers.jsonl").read_bytes())
    reports = run(tmp_path, questions)
    assert "generating" not in kinds(reports)
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_paused_it_waits_for_the_order_to_go_on(
    tmp_path: Path, questions: Path, whole: Path
) -> None:
    orders = {20: Order.PAUSE, 21: Order.PAUSE, 22: Order.RESUME}
    reports = run(tmp_path / "job", questions, orders)
    told = kinds(reports)
    assert told.index("resumed") == told.index("paused") + 1
    assert told.count("paused") == 1
    assert bytes_of(tmp_path / "job") == bytes_of(whole)
    reports = run(tmp_path / "stopped", questions, {20: Order.PAUSE, 21: Order.STOP})
    assert kinds(reports)[-1] == "stopped"


def test_answers_of_a_schema_are_whole_json(tmp_path: Path, questions: Path) -> None:
    schema = json.dumps(
        {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    )
    reports = run(
        tmp_path,
        questions,
        json_schema=schema,
        answers=1,
        output=job_pb2.OUTPUT_SHAPE_COMPLETION,
        drop=[job_pb2.ANSWER_FAULT_NOT_JSON, job_pb2.ANSWER_FAULT_REPEATED],
    )
    made = reports[-1].finished.result.generated
    samples = list(dataset.read(tmp_path / "dataset.jsonl.zst"))
    assert len(samples) == made.kept > 0
    for sample in samples:
        assert isinstance(sample, CompletionSample)
        assert json.loads(sample.completion)["n"] in (1, 2)


def test_a_stop_string_that_breaks_the_json_is_counted(tmp_path: Path, questions: Path) -> None:
    schema = '{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}'
    with pytest.raises(InvalidDataset) as caught:
        run(tmp_path, questions, json_schema=schema, stop=["n"], answers=1,
            drop=[job_pb2.ANSWER_FAULT_NOT_JSON])  # fmt: skip
    assert caught.value.what == (
        "None of the 16 answers can be kept: 16 no whole JSON (first in line 1)."
    )


def test_what_is_wrong_with_the_job_is_raised(tmp_path: Path, questions: Path) -> None:
    with pytest.raises(InvalidRequest, match="grammar does not compile"):
        run(tmp_path / "grammar", questions, gbnf="root ::= nothing")
    with pytest.raises(InvalidDataset, match=r"questions.jsonl:1: .*\{hint\}"):
        run(tmp_path / "field", questions, output_prompt="{hint}")
