"""A batch generation on the screen, as lines, and as a card."""

import pytest
from rich.console import Console

from controller import JobRecord, pictures
from controller.cli import fleet_view, generation_view, job_record, job_screen, job_view
from controller.cli.fleet_view import Activity
from controller.cli.job_view import JobView
from protos.nanofleet.v1 import job_pb2, telemetry_pb2
from protos.nanofleet.v1.job_pb2 import FaultCount, GenerateProgress, GenerateResult, JobEvent

CUT = FaultCount(fault=job_pb2.ANSWER_FAULT_CUT, answers=2, dropped=True, first_line=7)
LOOP = FaultCount(fault=job_pb2.ANSWER_FAULT_LOOP, answers=1, dropped=False, first_line=9)
PROGRESS = GenerateProgress(
    prompts=40,
    total_prompts=120,
    kept=38,
    faults=[LOOP, CUT],
    tokens=4_000,
    tokens_per_s=28,
    time_to_go_s=133,
    anonymous_bytes=94_000_000,
    file_bytes=1_036_000_000,
)
SPEC = job_pb2.GenerateSpec(
    base_digest="sha256:" + "b" * 64,
    dataset_digest="sha256:" + "d" * 64,
    prompt="Q: {question}\nA:",
    answers=1,
    max_tokens=256,
    output=job_pb2.OUTPUT_SHAPE_COMPLETION,
)


def result() -> job_pb2.JobResult:
    made = GenerateResult(prompts=120, kept=118, faults=[LOOP, CUT], tokens=12_000)
    return job_pb2.JobResult(
        duration_s=428, tokens_per_s=28, peak_rss_bytes=1_130_000_000, generated=made
    )


def record(job: job_pb2.Job) -> JobRecord:
    return JobRecord("01JDX", "teach", "kitchen", 1, job.state, job, 1)


def test_what_became_of_the_answers_is_said_with_the_first_lines() -> None:
    assert generation_view.answers(38, [LOOP, CUT]) == (
        "38 kept, 2 left out: 2 cut off at max_tokens (first in line 7);"
        " among the kept 1 repeating themselves (first in line 9)"
    )
    assert generation_view.answers(40, []) == "40 kept"


def test_the_screen_and_the_lines() -> None:
    event = JobEvent(attempt=1, generated=PROGRESS)
    view = job_view.apply(event, JobView("01JDX", "teach", "kitchen"))
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(job_screen.screen(view, 160))
    shown = capture.get()
    assert "40/120 prompts, 2 min 13 s to go" in shown
    assert "38 kept, 2 left out" in shown
    assert "94.0 MB anonymous" in shown
    line = job_screen.event_line(event)
    assert "prompt 40/120  38 kept, 2 left out" in line
    assert "28.0 tokens/s  2 min 13 s to go" in line
    assert job_screen.outcome("teach", result()).startswith(
        "teach: 120 prompts in 7 min 8 s (28.0 tokens/s), 118 kept, 2 left out: 2 cut off"
    )


def test_the_card_while_it_runs_and_after_it() -> None:
    job = job_pb2.Job(
        spec=job_pb2.JobSpec(name="teach", generate=SPEC), state=job_pb2.JOB_STATE_RUNNING
    )
    running = pictures.after(job, JobEvent(generated=PROGRESS))
    names = {SPEC.base_digest: "gemma"}
    shown = dict(job_record.card(record(running), names, 2).fields)
    assert shown["base model"] == f"gemma ({'b' * 12})"
    assert shown["prompt"] == "Q: {question} A:"
    assert shown["answers"].startswith("38 kept")
    assert shown["prompts"] == "40/120"
    assert job_record.table([record(running)], 2).rows[0][4] == "40/120"
    running.result.CopyFrom(result())
    shown = dict(job_record.card(record(running), names, 2).fields)
    assert shown["generated"] == "12,000 tokens to 120 prompts in 7 min 8 s (28.0 tokens/s)"
    running.result.energy_j = 840
    running.result.circumstances.simulated = True
    assert dict(job_record.card(record(running), names, 2).fields)["energy"] == "840 J sim"
    assert job_screen.outcome("teach", running.result).endswith(", 840 J sim.")


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"conversation": job_pb2.Conversation(system="Be  brief.")}, "system", "Be brief."),
        ({"adapter_digest": "sha256:" + "a" * 64}, "adapter", "a" * 12),
        ({"prompt": "x" * 100}, "prompt", "x" * 71 + "…"),
    ],
)
def test_what_it_asks(changes: dict[str, object], field: str, said: str) -> None:
    spec = job_pb2.GenerateSpec()
    spec.CopyFrom(SPEC)
    spec.MergeFrom(job_pb2.GenerateSpec(**changes))  # type: ignore[arg-type]
    assert dict(generation_view.recipe(spec, {}))[field] == said


def test_a_device_that_generates_says_so() -> None:
    worker = telemetry_pb2.WorkerSample(
        kind=telemetry_pb2.WorkerSample.KIND_GENERATING, job_id="01JDX", step=40, total_steps=120
    )
    sample = telemetry_pb2.TelemetrySample(workers=[worker])
    row = fleet_view.row_of("kitchen", sample, {"01JDX": "teach"})
    assert (row.activity, row.job, row.step, row.loss) == (
        Activity.GENERATING, "teach", 40, None
    )  # fmt: skip
