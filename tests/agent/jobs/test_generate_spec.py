"""What a batch generation must be for an agent to take it."""

import pytest

from agent.jobs import spec as specs
from artifacts import digest
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.inference_pb2 import Chat, ChatMessage, Sampling
from protos.nanofleet.v1.job_pb2 import Conversation, GenerateSpec, JobSpec
from protos.recipe import input_digests
from tests.agent.jobs.samples import generate_spec


def parsed(spec: GenerateSpec) -> JobSpec:
    return specs.parsed(JobSpec(name="teach", generate=spec).SerializeToString())


def chat(*roles: str) -> Chat:
    return Chat(messages=[ChatMessage(role=role, content="x") for role in roles])


def test_a_sound_spec_names_what_it_reads() -> None:
    adapter = digest.of_bytes(b"adapter")
    spec = parsed(generate_spec(adapter_digest=adapter))
    assert input_digests(spec) == (
        digest.of_bytes(b"base"), adapter, digest.of_bytes(b"dataset")
    )  # fmt: skip
    assert len(input_digests(parsed(generate_spec()))) == 2
    parsed(generate_spec(conversation=Conversation()))
    parsed(generate_spec(chat=chat("system", "user", "assistant", "user")))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_digest": "x"}, "base_digest"),
        ({"adapter_digest": "x"}, "adapter_digest"),
        ({"dataset_digest": "x"}, "dataset_digest"),
        ({"dataset_name": "a\0b"}, "dataset_name"),
        ({"prompt": ""}, "template"),
        ({"prompt": "x" * 70_000}, "template"),
        ({"chat": chat("assistant")}, "chat"),
        ({"chat": chat("user", "assistant")}, "chat"),
        ({"chat": chat("system")}, "chat"),
        ({"conversation": Conversation(), "output_prompt": "{a}"}, "output_prompt"),
        ({"conversation": Conversation(), "output": job_pb2.OUTPUT_SHAPE_COMPLETION}, "output"),
        ({"answers": 65}, "answers"),
        ({"max_tokens": 1 << 20}, "max_tokens"),
        ({"context_length": 1 << 20}, "context_length"),
        ({"threads": 2000}, "threads"),
        ({"sampling": Sampling(temperature=float("nan"))}, "sampling.temperature"),
        ({"sampling": Sampling(top_p=2)}, "sampling.top_p"),
        ({"stop": [""]}, "stop"),
        ({"drop": [job_pb2.ANSWER_FAULT_EMPTY]}, "drop"),
        ({"drop": [99]}, "drop"),
    ],
)
def test_the_wrong_field_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(generate_spec(**changes))
    assert caught.value.field == f"generate.{field}"


def test_a_template_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match="written twice"):
        parsed(generate_spec(prompt="{a"))


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (job_pb2.OperatingLimits(), "rest_s"),
        (job_pb2.OperatingLimits(rest_s=30, pause_above_c=85), "resume_below_c"),
        (job_pb2.OperatingLimits(rest_s=30, pause_above_c=float("nan")), "pause_above_c"),
        (job_pb2.OperatingLimits(rest_s=30, hours=["6-22"]), "hours"),
        (job_pb2.OperatingLimits(rest_s=30, pause_below_battery_percent=101), "battery"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: job_pb2.OperatingLimits, field: str) -> None:
    """Of any kind of job; the agent fills nothing."""
    asked = job_pb2.JobSpec(name="x", generate=generate_spec(), limits=limits)
    with pytest.raises(InvalidRequest, match=field) as refused:
        specs.parsed(asked.SerializeToString())
    assert refused.value.field.startswith("limits.")
