"""What became of the answers, and how it is told."""

from agent.batch.tally import Tally, dropped_by
from agent.quality.answers import WITHOUT_ANSWER, Fault
from protos import faults
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import GenerateSpec


def test_what_is_dropped_is_chosen_beside_what_cannot_be_kept() -> None:
    spec = GenerateSpec(drop=[job_pb2.ANSWER_FAULT_CUT])
    assert dropped_by(spec) == WITHOUT_ANSWER | {Fault.CUT}
    assert dropped_by(GenerateSpec()) == WITHOUT_ANSWER


def test_kept_and_left_out() -> None:
    tally = Tally(WITHOUT_ANSWER | {Fault.CUT})
    for line, fault in ((1, None), (2, Fault.CUT), (3, Fault.LOOP), (5, Fault.CUT), (6, None)):
        tally.add(line, fault, tokens=10, took_s=0.5)
    assert (tally.answers, tally.kept, tally.tokens, tally.tokens_per_s) == (5, 3, 50, 20.0)
    counts = tally.faults()
    assert [(count.answers, count.dropped, count.first_line) for count in counts] == [
        (1, False, 3),
        (2, True, 2),
    ]
    assert faults.told(counts) == (
        "1 repeating themselves (first in line 3), 2 cut off at max_tokens (first in line 2)"
    )


def test_every_fault_has_a_number_and_words() -> None:
    tally = Tally(frozenset())
    for fault in Fault:
        tally.add(1, fault, 1, 1.0)
    numbers = [count.fault for count in tally.faults()]
    assert numbers == [number for number in job_pb2.AnswerFault.values() if number]
    assert "with fault" not in faults.told(tally.faults())
