"""The table of causes: whole, in people's words, and the same as its page."""

from pathlib import Path

from protos import causes
from protos.causes import POLICIES, Retry
from protos.nanofleet.v1 import job_pb2

PAGE = Path(__file__).parents[2] / causes.PAGE


def test_every_cause_has_a_policy_and_a_sentence() -> None:
    assert set(POLICIES) == set(job_pb2.Cause.values())
    for cause, policy in POLICIES.items():
        assert not cause or policy.sentence.endswith(".")
    assert {policy.retry for policy in POLICIES.values()} == set(Retry)


def test_the_page_has_a_section_for_each_cause_with_what_the_table_says() -> None:
    sections = PAGE.read_text().split("\n## ")[1:]
    told = {section.partition("\n")[0]: " ".join(section.split()) for section in sections}
    assert list(told) == [causes.name(cause) for cause in POLICIES if cause]
    for cause, policy in POLICIES.items():
        if cause:
            section = told[causes.name(cause)]
            assert f"> {policy.sentence} " in section
            assert f" {policy.retry.value} " in section
            assert "**To do:**" in section


def test_a_cause_leads_to_its_section() -> None:
    assert causes.page(job_pb2.CAUSE_POWER_LOSS) == "docs/causes.md#power_loss"
