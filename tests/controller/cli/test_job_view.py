import math

import pytest
from rich.console import Console

from controller import pictures
from controller.cli import board_view, job_record, job_screen, job_view
from controller.cli.job_view import JobView
from controller.cli.output import Cell
from controller.records import JobRecord
from protos import errors
from protos.nanofleet.v1 import job_pb2, telemetry_pb2

VIEW = JobView("01JDX", "persona", "kitchen")


def progress(step: int, loss: float = 1.0) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(
        attempt=1,
        progress=job_pb2.TrainProgress(
            step=step,
            total_steps=120,
            loss=loss,
            tokens_per_s=182,
            anonymous_bytes=468_000_000,
            file_bytes=1_036_000_000,
            time_to_go_s=133,
        ),
    )


def moved(
    to: "job_pb2.JobState.ValueType",
    *,
    cause: "job_pb2.Cause.ValueType" = job_pb2.CAUSE_UNSPECIFIED,
    message: str = "",
    result: job_pb2.JobResult | None = None,
) -> job_pb2.JobEvent:
    transition = job_pb2.Transition(to=to, cause=cause, message=message, result=result)
    return job_pb2.JobEvent(attempt=1, transition=transition)


def after(*events: job_pb2.JobEvent) -> JobView:
    view = VIEW
    for event in events:
        view = job_view.apply(event, view)
    return view


def evaluated(step: int, loss: float, *, best: bool, stage: int = 1) -> job_pb2.JobEvent:
    found = job_pb2.Evaluated(
        step=step, stage=stage, loss=loss, perplexity=math.exp(loss), best=best
    )
    return job_pb2.JobEvent(attempt=1, evaluated=found)


def in_stage(stage: int, step: int, total: int = 2) -> job_pb2.JobEvent:
    event = progress(step)
    event.progress.stage, event.progress.total_stages = stage, total
    return event


def drawn(view: JobView, columns: int) -> str:
    console = Console(width=columns, color_system=None, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(job_screen.screen(view, columns))
    return capture.get()


def test_a_job_from_start_to_end() -> None:
    result = job_pb2.JobResult(adapter_digest="sha256:" + "a" * 64, steps=120)
    view = after(
        moved(job_pb2.JOB_STATE_QUEUED),
        moved(job_pb2.JOB_STATE_RUNNING),
        progress(1, 3.0),
        progress(2, 2.0),
        job_pb2.JobEvent(attempt=1, checkpoint=job_pb2.CheckpointSaved(step=2)),
        moved(job_pb2.JOB_STATE_SUCCEEDED, result=result),
    )
    assert view.ended
    assert view.losses == (3.0, 2.0)
    assert view.result == result
    assert job_view.failure(view) is None


def test_what_a_second_attempt_repeats_is_cut_from_the_curve() -> None:
    view = after(*(progress(step, float(step)) for step in range(1, 11)))
    resumed = job_view.apply(progress(8, 80.0), view)
    assert resumed.losses == (1, 2, 3, 4, 5, 6, 7, 80)


def test_a_failed_job_says_what_why_and_where_to_look() -> None:
    view = after(
        moved(job_pb2.JOB_STATE_FAILED, cause=job_pb2.CAUSE_OOM, message="It needs 5 GB of 4.")
    )
    failure = job_view.failure(view)
    assert isinstance(failure, errors.WorkerFailed)
    assert failure.what == "Job persona failed on kitchen: oom."
    assert failure.why == "It needs 5 GB of 4."
    assert "nanofleet job logs 01JDX" in failure.fix
    assert failure.reason == "JOB_OOM"


def test_a_canceled_job_is_no_success() -> None:
    failure = job_view.failure(after(moved(job_pb2.JOB_STATE_CANCELED)))
    assert failure is not None
    assert failure.reason == "JOB_CANCELED"


def test_a_running_job_has_not_failed() -> None:
    assert job_view.failure(after(moved(job_pb2.JOB_STATE_RUNNING))) is None


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_screen_fits_and_says_it_all(columns: int) -> None:
    view = after(moved(job_pb2.JOB_STATE_RUNNING), *(progress(n, 4 / n) for n in range(1, 49)))
    sample = telemetry_pb2.TelemetrySample(
        power=telemetry_pb2.PowerSample(total_mw=7200),
        temperatures=[
            telemetry_pb2.TemperatureSample(zone="cpu", celsius=50.4),
            telemetry_pb2.TemperatureSample(zone="tj", celsius=54.2),
        ],
    )
    shown = drawn(job_view.observe(sample, view), columns)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= 7
    for part in ("running", "persona", "48/120", "0.0833", "182 tokens/s", "7.2 W, 54 °C"):
        assert part in shown
    if columns >= 80:
        assert "468 MB anonymous + 1.04 GB file-backed" in shown
        assert "2 min 13 s to go" in shown
        assert len(lines) == 6


def test_the_held_out_loss_follows_the_loss_of_training() -> None:
    view = after(moved(job_pb2.JOB_STATE_RUNNING), in_stage(1, 9, total=1))
    assert "held-out" not in drawn(view, 80)
    view = job_view.apply(evaluated(10, 1.5, best=True), view)
    lines = drawn(view, 80).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["loss", "held-out"]
    assert lines[3].rstrip() == "held-out  1.5000 (perplexity 4.48) after step 10"
    view = job_view.apply(evaluated(20, 1.25, best=True), view)
    assert "1.2500 (perplexity 3.49) after step 20, the best so far" in drawn(view, 80)
    for step, loss in ((30, 1.75), (40, 2.0)):
        view = job_view.apply(evaluated(step, loss, best=False), view)
    shown = drawn(job_view.apply(in_stage(1, 41, total=1), view), 80)
    assert "2.0000 (perplexity 7.39) after step 40; best 1.2500 after step 20" in shown
    assert "stage" not in shown


def test_the_stage_is_named_where_there_are_several() -> None:
    view = after(moved(job_pb2.JOB_STATE_RUNNING), in_stage(1, 5), evaluated(5, 1.5, best=True))
    assert "persona on kitchen, stage 1 of 2" in drawn(view, 80)
    later = job_view.apply(in_stage(2, 6), view)
    assert "persona on kitchen, stage 2 of 2" in drawn(later, 80)
    assert "held-out" not in drawn(later, 80), "the second stage has samples of its own"
    own = job_view.apply(evaluated(7, 3.0, best=True, stage=2), later)
    assert "held-out  3.0000" in drawn(own, 80)


def test_an_evaluation_that_a_second_attempt_repeats_is_forgotten() -> None:
    view = after(
        in_stage(1, 10, total=1),
        evaluated(10, 1.5, best=True),
        in_stage(1, 20, total=1),
        evaluated(20, 1.25, best=True),
    )
    resumed = job_view.apply(in_stage(1, 15, total=1), view)
    assert "held-out  1.5000 (perplexity 4.48) after step 10\n" in _unpadded(drawn(resumed, 80))
    again = job_view.apply(evaluated(20, 1.25, best=True), resumed)
    assert [found.step for found in again.evaluations] == [10, 20]


def _unpadded(shown: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in shown.splitlines())


def test_the_end_says_what_was_best_and_that_it_came_early() -> None:
    best = job_pb2.Evaluated(step=40, stage=1, loss=1.25, perplexity=3.49)
    result = job_pb2.JobResult(adapter_digest="sha256:" + "a" * 64, steps=70, best=best)
    spec = job_pb2.JobSpec(train=job_pb2.TrainSpec(stages=[job_pb2.TrainStage(steps=120)]))
    plain_card = dict(job_record.outcome(job_pb2.Job(spec=spec, result=result)))
    assert plain_card["held-out loss"] == "1.2500 (perplexity 3.49) at step 40, the best"
    assert str(plain_card["trained"]).startswith("70 steps, 0 tokens")
    assert "early" not in job_screen.outcome("persona", result)
    result.stopped_early = True
    early_card = dict(job_record.outcome(job_pb2.Job(spec=spec, result=result)))
    assert str(early_card["trained"]).startswith("70 steps of 120, stopped early, 0 tokens")
    said = job_screen.outcome("persona", result)
    assert said.startswith("persona: 70 steps, stopped early, in ")
    assert "held-out loss 1.2500 at step 40" in said


def test_before_the_first_step_it_says_that_it_prepares() -> None:
    started = after(moved(job_pb2.JOB_STATE_QUEUED), moved(job_pb2.JOB_STATE_RUNNING))
    assert "preparing" in drawn(started, 80)
    assert "preparing" not in drawn(job_view.apply(progress(1), started), 80)
    assert "preparing" not in drawn(after(moved(job_pb2.JOB_STATE_QUEUED)), 80)


def test_without_sensors_there_is_no_board_line() -> None:
    view = job_view.observe(telemetry_pb2.TelemetrySample(), after(progress(1)))
    assert "board" not in drawn(view, 80)


def test_a_broken_link_is_said_and_forgotten_with_the_next_event() -> None:
    view = job_view.disconnected("Cannot reach device kitchen.", after(progress(1)))
    assert "Cannot reach device kitchen. Reconnecting …" in drawn(view, 80)
    assert "Reconnecting" not in drawn(job_view.apply(progress(2), view), 80)


def test_sparklines() -> None:
    assert job_screen.sparkline([], 10) == ""
    assert job_screen.sparkline([1.0], 10) == "▁"
    assert job_screen.sparkline([2.0, 2.0], 10) == "▁▁"
    assert job_screen.sparkline([0.0, 7.0], 10) == "▁█"
    assert job_screen.sparkline([math.nan, 0.0, math.inf, 7.0], 10) == "▁█"
    assert len(job_screen.sparkline(list(map(float, range(1000))), 40)) == 40


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (progress(48, 1.5), "step 48/120  loss 1.5000  182 tokens/s"),
        (in_stage(2, 48), "step 48/120  stage 2/2  loss 1.0000  182 tokens/s"),
        (in_stage(1, 48, total=1), "step 48/120  loss 1.0000  182 tokens/s"),
        (moved(job_pb2.JOB_STATE_PAUSED, message="By an operator."), "paused: By an operator."),
        (moved(job_pb2.JOB_STATE_QUEUED, cause=job_pb2.CAUSE_POWER_LOSS), "queued (power_loss)"),
        (
            job_pb2.JobEvent(checkpoint=job_pb2.CheckpointSaved(step=5, size_bytes=13_000_000)),
            "checkpoint at step 5 (13.0 MB)",
        ),
        (
            job_pb2.JobEvent(
                evaluated=job_pb2.Evaluated(
                    step=9, loss=1.5, perplexity=4.4817, tokens=1234, best=True
                )
            ),
            "held-out loss 1.5000 after step 9 (perplexity 4.48, 1,234 tokens), the best so far",
        ),
        (job_pb2.JobEvent(log=job_pb2.LogLine(text="hello\n")), "hello"),
        (
            job_pb2.JobEvent(pruned=job_pb2.EventsPruned(events=1200, unacknowledged=True)),
            "1,200 events were here; the device has let go of them to make room, and no controller"
            " had confirmed them",
        ),
        (job_pb2.JobEvent(), "an event that this version does not know"),
    ],
)
def test_event_lines(event: job_pb2.JobEvent, said: str) -> None:
    line = job_screen.event_line(event)
    assert said in line
    assert "\n" not in line


def test_a_rehearsal_is_told_line_by_line_and_kept_with_the_job() -> None:
    check = job_pb2.PlanCheck(name="data", found="16 samples, 400 tokens", took_s=1.5)
    plan = job_pb2.JobPlan(duration_s=133, tokens_per_s=182, peak_bytes=1_420_000_000, energy_j=900)
    job = job_pb2.Job()
    for event, said in (
        (job_pb2.JobEvent(check=check), "data: 16 samples, 400 tokens (1.5 s)"),
        (
            job_pb2.JobEvent(plan=plan),
            "it will take 2 min 13 s at 182 tokens/s, and a peak of 1.42 GB, 900 J",
        ),
    ):
        assert job_screen.event_line(event).endswith(said)
        job = pictures.after(job, event)
    assert (job.rehearsal.checks[0], job.rehearsal.plan) == (check, plan)
    plan.simulated = True
    assert job_screen.event_line(job_pb2.JobEvent(plan=plan)).endswith("1.42 GB, 900 J sim")
    shown = dict(job_record.rehearsal(job.rehearsal))
    assert shown["check data"] == "16 samples, 400 tokens"
    assert str(shown["forecast"]).startswith("it will take 2 min 13 s")


def decided(act: str, reason: str, *, holds: bool) -> job_pb2.JobEvent:
    told = job_pb2.Decided(act=act, reason=reason, holds=holds)
    return job_pb2.JobEvent(attempt=1, decided=told)


HOT = "The board is at 91.2 °C, more than 90 °C: it rests until it was at most 80 °C for 30 s."


def test_a_job_that_rests_says_so_and_why_on_the_screen() -> None:
    resting = after(
        moved(job_pb2.JOB_STATE_RUNNING), progress(3), decided("suspend the job", HOT, holds=True)
    )
    shown = drawn(resting, 120)
    assert shown.startswith("resting ")
    assert HOT in shown
    assert "running" not in shown
    goes_on = job_view.apply(decided("resume the job", "There is room.", holds=False), resting)
    assert drawn(goes_on, 120).startswith("running ")
    assert HOT not in drawn(goes_on, 120)
    assert "preparing" not in drawn(after(decided("let the job wait", HOT, holds=True)), 120)
    ended = job_view.apply(moved(job_pb2.JOB_STATE_PAUSED), resting)
    assert drawn(ended, 120).startswith("paused ")


def text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def record_of(job: job_pb2.Job) -> JobRecord:
    return JobRecord("01JDX", "persona", "kitchen", 1, job.state, job, 1)


def test_a_job_that_rests_says_so_and_why_in_list_and_show() -> None:
    running = pictures.after(job_pb2.Job(), moved(job_pb2.JOB_STATE_RUNNING))
    resting = pictures.after(running, decided("suspend the job", HOT, holds=True))
    both = job_record.table([record_of(running), record_of(resting)], 1)
    assert both.columns[-1] == "WHY IT RESTS"
    assert [(text(row[3]), row[-1]) for row in both.rows] == [("running", ""), ("resting", HOT)]
    assert job_record.table([record_of(running)], 1).columns[-1] == "SUBMITTED"
    shown = dict(job_record.card(record_of(resting), {}, 1).fields)
    assert (text(shown["state"]), shown["rests"]) == ("resting", HOT)
    plain = job_record.as_plain(record_of(resting))
    assert plain["state"] == "running", "what programs read is the job's state"
    assert isinstance(plain["job"], dict)
    assert plain["job"]["held"] == {"act": "suspend the job", "reason": HOT, "holds": True}
    for over in (
        decided("resume the job", "", holds=False),
        moved(job_pb2.JOB_STATE_QUEUED),
        moved(job_pb2.JOB_STATE_SUCCEEDED),
    ):
        assert not pictures.after(resting, over).HasField("held")
    assert not pictures.failed(resting, "It is gone.").HasField("held")


def test_the_board_of_a_result_is_told_with_what_makes_figures_comparable() -> None:
    board = job_pb2.Circumstances(
        power_mode="15W (0)",
        cores_online=6,
        clocks_pinned=False,
        mean_power_mw=7_200.0,
        power_source="VDD_IN",
        heat_zone="tj-thermal",
        mean_celsius=52.0,
        peak_celsius=58.0,
        over_current=[
            telemetry_pb2.OverCurrentSample(name="OC1 under-voltage", events=3),
            telemetry_pb2.OverCurrentSample(name="OC2 average over-current"),
        ],
    )
    assert board_view.circumstances(board) == (
        "15W (0), 6 cores, clocks free; 7.2 W VDD_IN; 52 °C mean, 58 °C peak (tj-thermal);"
        " 3 × OC1 under-voltage"
    )
    board.simulated = board.changed = True
    simulated = board_view.circumstances(board)
    assert "changed meanwhile, all of it simulated;" in simulated
    assert "; 7.2 W sim VDD_IN; 52 °C sim mean, 58 °C sim peak (tj-thermal);" in simulated
    assert board_view.circumstances(job_pb2.Circumstances()) == ""
    result = job_pb2.JobResult(energy_j=370, circumstances=board)
    assert board_view.energy(result) == "370 J sim"
    assert board_view.energy(job_pb2.JobResult()) == "–"


def test_a_failed_attempt_is_told_as_a_diagnosis() -> None:
    last = job_pb2.Conditions(
        step=48,
        total_steps=120,
        rss_bytes=1_520_000_000,
        anonymous_bytes=460_000_000,
        available_bytes=32_000_000,
        temperature_c=71.4,
    )
    attempt = job_pb2.Attempt(
        number=1,
        state=job_pb2.JOB_STATE_FAILED,
        cause=job_pb2.CAUSE_OOM,
        message="The worker ran out of memory.",
        peak_rss_bytes=1_600_000_000,
        log_tail="a\nb\nc\nKilled\n",
        last=last,
    )
    job = job_pb2.Job(state=job_pb2.JOB_STATE_RUNNING, attempts=[attempt])
    assert job_record.outcome(job) == [
        ("attempt 1", "failed (oom): The worker ran out of memory."),
        (
            "  then",
            "It is tried again once, with the least memory that gives the same result;"
            " then it fails.",
        ),
        (
            "  at its end",
            "step 48/120, worker 1.52 GB (460 MB anonymous, peak 1.60 GB),"
            " board 32.0 MB available, 71 °C",
        ),
        ("  its log", "b"),
        (" ", "c"),
        (" ", "Killed"),
        ("  more", "docs/causes.md#oom"),
    ]
    job.state = job_pb2.JOB_STATE_FAILED
    assert dict(job_record.outcome(job))["  then"].startswith("The retries that its cause is worth")
    attempt.ClearField("last")
    job = job_pb2.Job(attempts=[attempt])
    assert dict(job_record.outcome(job))["  at its end"] == "worker's peak 1.60 GB"
