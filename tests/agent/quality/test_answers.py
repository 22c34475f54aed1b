"""Each fault is found, and of several the gravest counts."""

import pytest

from agent.quality.answers import Ending, Fault, fault_of


@pytest.mark.parametrize(
    ("text", "ending", "wants_json", "is_repeated", "fault"),
    [
        ("Pico.", Ending.STOPPED, False, False, None),
        (" \n\t", Ending.CUT, True, True, Fault.EMPTY),
        ("la la la", Ending.LOOPED, True, True, Fault.LOOP),
        ('{"a": ', Ending.CUT, True, True, Fault.CUT),
        ('{"a": ', Ending.STOPPED, True, True, Fault.NOT_JSON),
        ("[" * 100_000, Ending.STOPPED, True, False, Fault.NOT_JSON),
        ('{"a": ', Ending.STOPPED, False, False, None),
        ('{"a": 1}', Ending.STOPPED, True, True, Fault.REPEATED),
    ],
)
def test_the_gravest_fault(
    text: str, ending: Ending, wants_json: bool, is_repeated: bool, fault: Fault | None
) -> None:
    assert fault_of(text, ending, wants_json=wants_json, is_repeated=is_repeated) is fault
