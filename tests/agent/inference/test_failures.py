"""What the worker refuses is the same error for the client: type, reason, field and remedy."""

import pytest

from agent.inference import failures, wire
from protos import errors
from protos.errors import Busy, InvalidRequest, NanofleetError, Refused
from protos.nanofleet.v1.worker_pb2 import GenerationFailed


@pytest.mark.parametrize(
    "error",
    [
        failures.prompt_too_long(600, 512),
        failures.adapter_unusable("sha256:" + "a" * 64, "It is damaged."),
        failures.no_chat_template(),
        failures.adapter_not_finite(),
        failures.base_not_finite(),
        failures.invalid_sampling("top_p", 7, "at most 1"),
        failures.empty_prompt(),
        failures.empty_stop(),
        failures.invalid_grammar("Line 1, column 3: no."),
        failures.nothing_left(),
        failures.deadline_passed(2.0),
        failures.text_too_long(600, 512, "texts"),
        failures.busy(32, 5.0),
        errors.WorkerFailed("It cannot go on."),
    ],
    ids=lambda error: error.reason,
)
def test_an_error_is_the_same_on_both_sides_of_the_pipe(error: NanofleetError) -> None:
    report = wire.failure(7, error)
    assert report.failed.request_id == 7
    received = failures.received(report.failed)
    assert type(received) is type(error)
    assert vars(received) == vars(error)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("BUSY", Busy),
        ("ADAPTER_UNUSABLE", Refused),
        ("NO_CHAT_TEMPLATE", Refused),
        ("NON_FINITE_LOGITS", Refused),
        ("PROMPT_TOO_LONG", InvalidRequest),
        ("INVALID_SAMPLING", InvalidRequest),
        ("of a later release", InvalidRequest),
    ],
)
def test_a_reason_has_its_type(reason: str, kind: type[NanofleetError]) -> None:
    received = failures.received(GenerationFailed(reason=reason, message="No."))
    assert type(received) is kind
    assert received.retry_after_s is None
