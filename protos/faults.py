"""The faults of generated answers in words: the device explains a job by them, the controller shows
them."""

from collections.abc import Iterable, Mapping

from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import FaultCount

# After a number of answers.
_WORDS: Mapping["job_pb2.AnswerFault.ValueType", str] = {
    job_pb2.ANSWER_FAULT_PROMPT_EMPTY: "with an empty prompt",
    job_pb2.ANSWER_FAULT_PROMPT_TOO_LONG: "with a prompt too long for the context",
    job_pb2.ANSWER_FAULT_NOT_FINITE: "without a finite number to choose by",
    job_pb2.ANSWER_FAULT_EMPTY: "empty",
    job_pb2.ANSWER_FAULT_LOOP: "repeating themselves",
    job_pb2.ANSWER_FAULT_CUT: "cut off at max_tokens",
    job_pb2.ANSWER_FAULT_NOT_JSON: "no whole JSON",
    job_pb2.ANSWER_FAULT_REPEATED: "there before",
}


def told(counts: Iterable[FaultCount]) -> str:
    """``10 cut off at max_tokens (first in line 1), 2 empty (first in line 7)``"""
    return ", ".join(
        f"{count.answers:,} {_WORDS.get(count.fault, f'with fault {count.fault}')}"
        f" (first in line {count.first_line})"
        for count in counts
    )
