"""What the demo measured: filled in by the story, drawn by the screen, kept as summary.json."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from controller.cli.plain import Plain
from protos.nanofleet.v1.inference_pb2 import Usage
from protos.nanofleet.v1.job_pb2 import JobResult
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample, WorkerSample


@dataclass(frozen=True, slots=True)
class Answer:
    device: str
    question: str
    text: str
    usage: Usage


@dataclass(slots=True)
class Peaks:
    """The highest memory of each process that telemetry has shown, in bytes of resident set."""

    agent: int = 0
    training: int = 0
    inference: int = 0

    def observe(self, sample: TelemetrySample) -> None:
        self.agent = max(self.agent, sample.memory.agent_rss_bytes)
        for worker in sample.workers:
            if worker.kind == WorkerSample.KIND_TRAINING:
                self.training = max(self.training, worker.peak_rss_bytes)
            else:
                self.inference = max(self.inference, worker.peak_rss_bytes)


@dataclass(slots=True)
class Powers:
    """What each device drew, and how warm it became, by its telemetry."""

    sums_mw: dict[str, tuple[int, int]] = field(default_factory=dict)
    celsius: dict[str, float] = field(default_factory=dict)

    def observe(self, device: str, sample: TelemetrySample) -> None:
        if sample.power.HasField("total_mw"):
            total_mw, count = self.sums_mw.get(device, (0, 0))
            self.sums_mw[device] = total_mw + sample.power.total_mw, count + 1
        if sample.HasField("heat"):
            self.celsius[device] = max(self.celsius.get(device, -273.0), sample.heat.celsius)

    def means_mw(self) -> Iterator[tuple[str, float]]:
        for device, (total_mw, count) in self.sums_mw.items():
            yield device, total_mw / count


@dataclass(slots=True)
class Outcome:
    """What the demo measured; ``summary.json`` holds the same."""

    before: list[Answer] = field(default_factory=list)
    after: list[Answer] = field(default_factory=list)
    result: JobResult = field(default_factory=JobResult)
    peaks: Peaks = field(default_factory=Peaks)
    powers: Powers = field(default_factory=Powers)
    served_while_training: int = 0
    resumed_at_step: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    duration_s: float = 0.0

    @property
    def decoded_tokens_per_s(self) -> float:
        """Over all answers with the adapter; 0 when there are none."""
        tokens = sum(answer.usage.completion_tokens for answer in self.after)
        seconds = sum(answer.usage.decode_s for answer in self.after)
        return tokens / seconds if seconds else 0.0


def summary(outcome: Outcome) -> dict[str, Plain]:
    """The outcome as plain values, for summary.json and ``-o json``."""
    result = outcome.result
    return {
        "before": _plain(outcome.before),
        "after": _plain(outcome.after),
        "steps": result.steps,
        "first_loss": result.first_loss,
        "final_loss": result.final_loss,
        "trained_tokens_per_s": result.tokens_per_s,
        "decoded_tokens_per_s": outcome.decoded_tokens_per_s,
        "energy_j": result.energy_j if result.HasField("energy_j") else None,
        "mean_power_mw": dict(outcome.powers.means_mw()),
        "peak_celsius": dict(outcome.powers.celsius),
        "simulated": result.circumstances.simulated,
        "peak_rss_bytes": dict(asdict(outcome.peaks)),
        "served_while_training": outcome.served_while_training,
        "resumed_at_step": outcome.resumed_at_step,
        "sent_bytes": outcome.sent_bytes,
        "received_bytes": outcome.received_bytes,
        "duration_s": outcome.duration_s,
    }


def _plain(answers: Sequence[Answer]) -> list[Plain]:
    return [{"device": a.device, "question": a.question, "text": a.text} for a in answers]
