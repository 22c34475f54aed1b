import json

from controller.cli import plain
from protos.nanofleet.v1 import artifact_pb2, enrolment_pb2, job_pb2, telemetry_pb2


def test_integers_stay_numbers_and_enums_are_short_names() -> None:
    shown = plain.message(
        artifact_pb2.Artifact(
            digest="sha256:0", size_bytes=1 << 40, kind=artifact_pb2.ARTIFACT_KIND_BASE_MODEL
        )
    )
    assert shown == {
        "digest": "sha256:0",
        "size_bytes": 1 << 40,
        "kind": "base_model",
        "pins": [],
    }


def test_absent_is_null_and_zero_is_zero() -> None:
    sample = telemetry_pb2.TelemetrySample()
    sample.power.rails.add(name="VDD_IN", power_mw=0)
    shown = plain.message(sample)
    assert shown["gpu"] is None
    assert shown["power"] == {
        "total_mw": None,
        "total_source": "",
        "rails": [{"name": "VDD_IN", "power_mw": 0}],
        "energy_j": None,
    }


def test_only_the_chosen_member_of_a_oneof_appears() -> None:
    shown = plain.message(job_pb2.JobEvent(seq=7, log=job_pb2.LogLine(text="hello")))
    assert shown["log"] == {"text": "hello"}
    assert not {"transition", "progress", "checkpoint"} & set(shown)


def test_maps_and_bytes() -> None:
    shown = plain.message(
        enrolment_pb2.JoinResponse(labels={"b": "2", "a": "1"}, certificate_chain=b"\x00\xff")
    )
    assert shown["labels"] == {"a": "1", "b": "2"}
    assert shown["certificate_chain"] == "00ff"


def test_an_enum_value_of_a_newer_version_is_its_number() -> None:
    job = job_pb2.Job.FromString(bytes([5 << 3, 99]))
    assert plain.message(job)["state"] == "99"


def test_the_result_is_json() -> None:
    job = job_pb2.Job(id="01J", attempts=[job_pb2.Attempt(cause=job_pb2.CAUSE_OOM)])
    attempts = json.loads(json.dumps(plain.message(job)))["attempts"]
    assert attempts[0]["cause"] == "oom"
