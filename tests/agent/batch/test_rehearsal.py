"""The rehearsal of a generation obeys, between two prompts and between two tokens."""

import json
from pathlib import Path

import pytest

from agent.batch.obeying import Obeying, Stopped
from agent.batch.rehearsal import rehearse
from agent.workers.commands import Order
from protos.nanofleet.v1.worker_pb2 import StartGenerating, TrainingReport
from tests.agent.batch.test_session import TINY, Orders, kinds
from tests.agent.jobs.samples import generate_spec

PROMPTS = 12


@pytest.fixture
def start(tmp_path: Path) -> StartGenerating:
    path = tmp_path / "questions.jsonl"
    lines = [{"topic": "sea", "question": "Where? " * n} for n in range(1, PROMPTS + 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return StartGenerating(
        spec=generate_spec(), base_path=str(TINY), dataset_path=str(path),
        job_folder=str(tmp_path / "job"), threads=1, rehearse=True,
    )  # fmt: skip


def rehearsed(start: StartGenerating, orders: dict[int, Order]) -> list[TrainingReport]:
    """``orders`` by the number of the question whether there is one."""
    reports: list[TrainingReport] = []
    rehearse(start, Orders(orders), reports.append)
    return reports


def test_undisturbed(start: StartGenerating) -> None:
    reports = rehearsed(start, {})
    assert kinds(reports) == ["check", "check", "rehearsed"]
    assert reports[-1].rehearsed.plan.prompts.prompts == PROMPTS


@pytest.mark.parametrize(
    ("asked", "where"),
    [(5, ["paused", "resumed", "check", "check"]), (20, ["check", "paused", "resumed", "check"])],
)
def test_it_rests_and_goes_on_to_the_same_plan(
    start: StartGenerating, asked: int, where: list[str]
) -> None:
    """While prompts are counted, and within an answer."""
    plain = rehearsed(start, {})[-1].rehearsed.plan
    reports = rehearsed(start, {asked: Order.PAUSE, asked + 2: Order.RESUME})
    assert kinds(reports) == [*where, "rehearsed"]
    paused = next(report.paused.step for report in reports if report.HasField("paused"))
    assert paused == min(asked - 1, PROMPTS)
    plan = reports[-1].rehearsed.plan
    assert plan.prompts == plain.prompts
    assert [check.check.found for check in reports if check.HasField("check")] == [
        check.check.found for check in rehearsed(start, {}) if check.HasField("check")
    ]


@pytest.mark.parametrize(("asked", "checks"), [(5, 0), (20, 1)])
def test_it_stops_where_it_is_told_to(start: StartGenerating, asked: int, checks: int) -> None:
    reports = rehearsed(start, {asked: Order.STOP})
    assert kinds(reports) == [*["check"] * checks, "stopped"]
    assert reports[-1].stopped.step == min(asked - 1, PROMPTS)
    paused = rehearsed(start, {asked: Order.PAUSE, asked + 1: Order.STOP})
    assert kinds(paused) == [*["check"] * checks, "paused", "stopped"]


def test_a_pause_counts_in_no_figure() -> None:
    now_s = 100.0

    class Slow(Orders):
        def next(self, timeout_s: float | None = 0) -> Order | None:
            nonlocal now_s
            now_s += 60.0 if timeout_s is None else 1.0
            return super().next(timeout_s)

    reports: list[TrainingReport] = []
    orders = Slow({2: Order.PAUSE, 5: Order.RESUME, 8: Order.STOP})
    obeying = Obeying(orders, reports.append, lambda: 3, clock=lambda: now_s)
    for _ in range(3):
        obeying.check()
    # Four looks of a second; the three minutes of the pause are left out.
    assert obeying.worked_s() == 104.0
    with pytest.raises(Stopped):
        obeying.check()
    assert not obeying.may_go_on(), "it stays so"
    assert [report.paused.step for report in reports if report.HasField("paused")] == [3]
