"""What can be wrong with a generated answer, found without knowing what it should have said.

A student learns whatever it is given: answers that end in the middle of a sentence, that go round
in circles, or that are there twice. So each answer is judged before it becomes a sample. Of several
faults the gravest counts, in the order below.
"""

import enum
import json


class Ending(enum.Enum):
    """Why the answer ended."""

    STOPPED = "by itself, or at a stop string"
    CUT = "at max_tokens, or where the context ends"
    LOOPED = "because the model repeated itself"


class Fault(enum.Enum):
    PROMPT_EMPTY = enum.auto()
    PROMPT_TOO_LONG = enum.auto()
    NOT_FINITE = enum.auto()
    EMPTY = enum.auto()
    LOOP = enum.auto()
    CUT = enum.auto()
    NOT_JSON = enum.auto()
    REPEATED = enum.auto()


# There is no answer to keep.
WITHOUT_ANSWER = frozenset(
    (Fault.PROMPT_EMPTY, Fault.PROMPT_TOO_LONG, Fault.NOT_FINITE, Fault.EMPTY)
)


def fault_of(text: str, ending: Ending, *, wants_json: bool, is_repeated: bool) -> Fault | None:
    """``is_repeated``: the same answer to the same prompt was there before."""
    if not text.strip():
        return Fault.EMPTY
    if ending is Ending.LOOPED:
        return Fault.LOOP
    if ending is Ending.CUT:
        return Fault.CUT
    if wants_json and not _is_json(text):
        return Fault.NOT_JSON
    return Fault.REPEATED if is_repeated else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
