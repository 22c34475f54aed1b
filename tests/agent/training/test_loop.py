"""The loop with a real trainer, orders over a real pipe, and a clock that the test moves."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agent.training import graph, token_file
from agent.training.examples import ExampleMaker
from agent.training.failures import TrainingFailure
from agent.training.loop import Loop, Outcome
from agent.training.samples import Samples
from agent.training.trainer import Progress, Trainer
from agent.training.weights import MappedWeights
from agent.workers import residency
from agent.workers.channel import FrameReader, FrameWriter
from agent.workers.commands import Commands
from artifacts.base_model import BaseModel
from artifacts.samples import ChatSample, Message
from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests.agent.training.conftest import PERSONA
from tests.agent.training.driver import recipe

SECONDS_A_READING = 10.0
LEASE_END_NS = 10**18


class Bench:
    """Everything around a loop. Each reading of the clock moves it by ten seconds."""

    def __init__(
        self, base: BaseModel, samples: Samples, spec: job_pb2.TrainSpec, progress: Progress
    ) -> None:
        read_end, write_end = os.pipe()
        self.agent = FrameWriter(write_end)
        self.reader = FrameReader(read_end, worker_pb2.TrainingCommand)
        self._connected = True
        self.reports: list[worker_pb2.TrainingReport] = []
        self.saved_at: list[int] = []
        self.released = self.beats = 0
        self.now_s = 0.0
        self.spec = spec
        weights = MappedWeights(base, torch.float32)
        self.trainer = Trainer(graph.build(base, weights, spec), [samples], spec, progress)
        self.boottime_ns = 0
        self.commands = Commands(self.reader, clock_ns=lambda: self.boottime_ns)
        self.loop = Loop(
            self.trainer,
            spec,
            self.commands,
            self._report,
            save=self._save,
            release=self._release,
            residency=residency.measure,
            clock=self._clock,
            beat=self._beat,
        )
        self.answers: dict[str, list[str]] = {}

    def send(self, order: str) -> None:
        kinds = {
            "pause": worker_pb2.PauseTraining,
            "resume": worker_pb2.ResumeTraining,
            "stop": worker_pb2.StopTraining,
        }
        if order == "the lease ends":
            self.boottime_ns = LEASE_END_NS
        else:
            self.agent.write(worker_pb2.TrainingCommand(**{order: kinds[order]()}))

    def send_lease(self, until_boottime_ns: int) -> None:
        lease = worker_pb2.ExtendLease(until_boottime_ns=until_boottime_ns)
        self.agent.write(worker_pb2.TrainingCommand(extend_lease=lease))

    def listen_to(self, order: str) -> None:
        """Returns when it has been read, and all that was sent before it."""
        self.send(order)
        self.commands.listen()
        orders = self.commands._orders
        orders.put(orders.get(timeout=60))

    def hang_up(self) -> None:
        """As an agent that dies: the pipe ends, and has been read to its end."""
        if self._connected:
            self._connected = False
            self.agent.close()
            for thread in threading.enumerate():
                if thread.name == "commands":
                    thread.join()

    def close(self) -> None:
        self.hang_up()
        self.reader._file.close()

    def kinds(self) -> list[str]:
        return [report.WhichOneof("report") or "" for report in self.reports]

    def _report(self, report: worker_pb2.TrainingReport) -> None:
        self.reports.append(report)
        for order in self.answers.pop(report.WhichOneof("report") or "", []):
            self.send(order)

    def _save(self) -> int:
        self.saved_at.append(self.trainer.progress.micro_steps)
        return 123

    def _release(self) -> None:
        self.released += 1

    def _beat(self) -> None:
        self.beats += 1

    def _clock(self) -> float:
        self.now_s += SECONDS_A_READING
        return self.now_s


@pytest.fixture
def samples(tmp_path: Path, maker: ExampleMaker) -> Samples:
    examples = [
        maker.make(ChatSample(1, (Message("user", question), Message("assistant", answer))))
        for question, answer in PERSONA
    ]
    totals = token_file.write(tmp_path / "tokens.bin", bytes(32), examples)
    return Samples(tmp_path / "tokens.bin", totals, seed=7)


@pytest.fixture
def bench(base: BaseModel, samples: Samples) -> Iterator[Bench]:
    found = Bench(base, samples, recipe(steps=3), Progress())
    yield found
    found.close()


def test_runs_to_the_end_and_saves_once(bench: Bench) -> None:
    assert bench.loop.run() is Outcome.FINISHED
    assert bench.kinds() == ["progress", "progress", "progress", "checkpoint"]
    assert bench.saved_at == [6]
    assert bench.reports[-1].checkpoint == job_pb2.CheckpointSaved(step=3, size_bytes=123)
    steps = [report.progress for report in bench.reports[:3]]
    assert [progress.step for progress in steps] == [1, 2, 3]
    # Two micro-steps of ten seconds in each step.
    assert [progress.micro_step_s for progress in steps] == [SECONDS_A_READING] * 3
    assert [progress.time_to_go_s for progress in steps] == [40.0, 20.0, 0.0]
    assert steps[-1].loss == bench.trainer.progress.last_loss < bench.trainer.progress.first_loss
    tokens = [progress.tokens_per_s * 2 * SECONDS_A_READING for progress in steps]
    assert round(sum(tokens)) == bench.trainer.progress.trained_tokens


def test_every_pass_is_a_sign_of_getting_on(bench: Bench) -> None:
    bench.loop.run()
    assert bench.beats == bench.trainer.progress.micro_steps == 6


def test_saves_by_the_clock(bench: Bench) -> None:
    bench.spec.checkpoint_period_s = 60
    bench.loop.run()
    # A micro-step reads the clock three times: the second one ends 60 s after the start.
    assert bench.saved_at[0] == 2
    assert bench.saved_at[-1] == 6


def test_stops_at_the_next_micro_step(bench: Bench) -> None:
    bench.commands.listen()
    bench.send("stop")
    bench.send("resume")
    bench.hang_up()
    assert bench.loop.run() is Outcome.STOPPED
    assert bench.trainer.progress.micro_steps == 0
    # Nothing was trained, so there is nothing to save.
    assert bench.saved_at == []


def test_the_end_of_the_pipe_is_an_order_to_stop(bench: Bench) -> None:
    bench.commands.listen()
    bench.trainer.micro_step()
    bench.hang_up()
    assert bench.loop.run() is Outcome.STOPPED
    assert bench.saved_at == [1]


def test_stops_at_the_micro_step_at_which_its_lease_ends(bench: Bench) -> None:
    """Nobody says so: the agent may be frozen, too."""
    bench.send_lease(LEASE_END_NS)
    bench.listen_to("pause")
    bench.answers |= {"paused": ["resume"], "progress": ["the lease ends"]}
    assert bench.loop.run() is Outcome.STOPPED
    assert bench.commands.lease_ended
    assert bench.kinds() == ["paused", "resumed", "progress", "checkpoint"]


def test_a_lease_that_was_extended_holds(bench: Bench) -> None:
    bench.send_lease(LEASE_END_NS)
    bench.send_lease(LEASE_END_NS + 1)
    bench.send_lease(LEASE_END_NS - 1)
    bench.listen_to("pause")
    bench.answers |= {"paused": ["resume"], "progress": ["the lease ends"]}
    assert bench.loop.run() is Outcome.FINISHED


def test_stops_out_of_a_pause_when_its_lease_ends(bench: Bench) -> None:
    bench.send_lease(LEASE_END_NS)
    bench.listen_to("pause")
    bench.answers |= {"paused": ["the lease ends"]}
    assert bench.loop.run() is Outcome.STOPPED
    # With a checkpoint, if the order came after a first micro-step.
    assert bench.kinds() in (["paused"], ["paused", "checkpoint"])


def test_pauses_and_resumes(bench: Bench) -> None:
    bench.commands.listen()
    bench.answers = {"progress": ["pause"], "paused": ["pause", "resume"]}
    assert bench.loop.run() is Outcome.FINISHED
    kinds = bench.kinds()
    assert kinds.index("paused") + 1 == kinds.index("resumed")
    assert kinds.count("progress") == 3
    assert bench.released == kinds.count("paused")


def test_stops_out_of_a_pause(bench: Bench) -> None:
    bench.commands.listen()
    bench.answers = {"progress": ["pause"], "paused": ["stop"]}
    assert bench.loop.run() is Outcome.STOPPED
    assert "resumed" not in bench.kinds()
    assert bench.saved_at == [bench.trainer.progress.micro_steps]


def test_a_long_pause_is_saved(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.training.loop.PAUSE_CHECKPOINT_AFTER_S", 0.01)
    bench.commands.listen()
    bench.answers = {"progress": ["pause"], "checkpoint": ["resume"]}
    assert bench.loop.run() is Outcome.FINISHED
    kinds = bench.kinds()
    assert kinds[kinds.index("paused") :][:3] == ["paused", "checkpoint", "resumed"]


def test_a_state_moved_in_the_middle_of_a_step_changes_nothing(
    base: BaseModel, samples: Samples
) -> None:
    spec = recipe(steps=4, accumulation=3, lora_dropout=0.2)
    straight = Bench(base, samples, spec, Progress())
    straight.loop.run()
    first = Bench(base, samples, spec, Progress())
    for _ in range(4):
        first.trainer.micro_step()
    state = {name: tensor.clone() for name, tensor in first.trainer.state().items()}
    assert any(name.startswith("gradient.") for name in state)
    progress = Progress.from_json(first.trainer.progress.to_json())
    second = Bench(base, samples, spec, progress)
    second.trainer.restore(state)
    second.loop.run()
    expected, found = (bench.trainer.state() for bench in (straight, second))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert second.trainer.progress.last_loss == straight.trainer.progress.last_loss
    for bench in (straight, first, second):
        bench.close()


def test_divergence_names_the_step_and_saves_nothing(base: BaseModel, samples: Samples) -> None:
    spec = recipe(steps=4, learning_rate=1e30, gradient_clip=0.0, warmup_fraction=0.0)
    bench = Bench(base, samples, spec, Progress())
    with pytest.raises(TrainingFailure, match=r"became (nan|inf) in step 2 of 4") as caught:
        bench.loop.run()
    assert "Lower the learning rate (1e+30)" in caught.value.message
    assert caught.value.cause == job_pb2.CAUSE_BAD_SPEC
    assert bench.saved_at == []
    bench.close()


def test_short_answers_weigh_as_their_tokens(base: BaseModel, samples: Samples) -> None:
    """The loss of a step is the mean over its labelled tokens, not the mean of means."""
    spec = recipe(steps=1, accumulation=5)
    bench = Bench(base, samples, spec, Progress())
    weights = MappedWeights(base, torch.float32)
    model = graph.build(base, weights, spec)
    summed = sum(model.summed_loss(*samples.at(number)).item() for number in range(5))
    bench.loop.run()
    expected = summed / samples.totals.labelled
    assert bench.trainer.progress.first_loss == pytest.approx(expected, rel=1e-6)
    bench.close()
