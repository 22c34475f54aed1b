"""What became of the answers, counted. Pure: after a cut it is built from what is on the disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.quality.answers import WITHOUT_ANSWER, Fault
from protos.nanofleet.v1 import job_pb2

_TO_PROTO: Mapping[Fault, "job_pb2.AnswerFault.ValueType"] = {
    Fault.PROMPT_EMPTY: job_pb2.ANSWER_FAULT_PROMPT_EMPTY,
    Fault.PROMPT_TOO_LONG: job_pb2.ANSWER_FAULT_PROMPT_TOO_LONG,
    Fault.NOT_FINITE: job_pb2.ANSWER_FAULT_NOT_FINITE,
    Fault.EMPTY: job_pb2.ANSWER_FAULT_EMPTY,
    Fault.LOOP: job_pb2.ANSWER_FAULT_LOOP,
    Fault.CUT: job_pb2.ANSWER_FAULT_CUT,
    Fault.NOT_JSON: job_pb2.ANSWER_FAULT_NOT_JSON,
    Fault.REPEATED: job_pb2.ANSWER_FAULT_REPEATED,
}


def dropped_by(spec: job_pb2.GenerateSpec) -> frozenset[Fault]:
    """Which faults keep an answer out of the dataset."""
    chosen = {fault for fault, number in _TO_PROTO.items() if number in spec.drop}
    return WITHOUT_ANSWER | chosen


@dataclass(slots=True)
class _Count:
    answers: int
    first_line: int


@dataclass(slots=True)
class Tally:
    dropped: frozenset[Fault]
    answers: int = 0
    kept: int = 0
    tokens: int = 0
    took_s: float = 0.0
    _counts: dict[Fault, _Count] = field(default_factory=dict)

    def add(self, line: int, fault: Fault | None, tokens: int, took_s: float) -> None:
        self.answers += 1
        self.tokens += tokens
        self.took_s += took_s
        self.kept += fault not in self.dropped
        if fault is None:
            return
        count = self._counts.setdefault(fault, _Count(0, line))
        count.answers += 1

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.took_s if self.took_s else 0.0

    def faults(self) -> list[job_pb2.FaultCount]:
        """In the order of the enum."""
        return [
            job_pb2.FaultCount(
                fault=_TO_PROTO[fault],
                answers=self._counts[fault].answers,
                dropped=fault in self.dropped,
                first_line=self._counts[fault].first_line,
            )
            for fault in Fault
            if fault in self._counts
        ]
