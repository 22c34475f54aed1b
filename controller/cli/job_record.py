"""How a job is shown: as a row, as a card, and as a plain dictionary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from controller.cli import board_view, generation_view, job_screen, plain, units
from controller.cli.artifact_view import short
from controller.cli.output import Card, Cell, Styled, Table
from controller.cli.plain import Plain
from protos import causes
from protos.causes import POLICIES, Retry
from protos.nanofleet.v1 import job_pb2

if TYPE_CHECKING:
    from controller import JobRecord

# Of a log's tail: the exception and where it came from.
_LAST_WORDS = 3
_GIVEN_UP = "The retries that its cause is worth are used up: the job has failed."
_COLUMNS = ("JOB", "NAME", "DEVICE", "STATE", "STEP", "LOSS", "SUBMITTED")


def table(records: "Sequence[JobRecord]", now_ns: int) -> Table:
    """With a last column that says why jobs rest, where some do."""
    columns: tuple[str, ...] = _COLUMNS
    rows: list[list[Cell]] = [
        [
            record.id,
            record.name,
            record.device,
            state(record),
            _step(record.job),
            f"{record.job.progress.loss:.4f}" if record.job.progress.step else units.ABSENT,
            units.age(record.created_utc_ns, now_ns),
        ]
        for record in records
    ]
    if any(record.job.held.reason for record in records):
        columns = (*_COLUMNS, "WHY IT RESTS")
        for row, record in zip(rows, records, strict=True):
            row.append(record.job.held.reason)
    return Table(columns, rows, "No jobs. Start one with `nanofleet job submit FILE`.")


def card(record: "JobRecord", names: Mapping[str, str], now_ns: int) -> Card:
    """``names`` are the fleet's names of artifacts, by digest."""
    job = record.job
    fields: list[tuple[str, Cell]] = [
        ("job", record.id),
        ("name", record.name),
        ("device", record.device),
        ("state", state(record)),
        ("message", job.message),
        ("rests", job.held.reason),
        (
            "submitted",
            f"{units.stamp(record.created_utc_ns)}, {units.age(record.created_utc_ns, now_ns)}",
        ),
        *(generation_view.recipe(job.spec.generate, names) if job.spec.HasField("generate")
          else _recipe(job.spec.train, names)),
    ]  # fmt: skip
    return Card([*fields, *rehearsal(job.rehearsal), *outcome(job)])


def outcome(job: job_pb2.Job) -> list[tuple[str, Cell]]:
    """Result or progress, and how each attempt went."""
    fields: list[tuple[str, Cell]] = []
    if job.HasField("result"):
        fields += _result(job)
    elif job.HasField("generating"):
        fields += generation_view.progress(job)
    elif job.HasField("progress"):
        fields += _progress(job)
    for attempt in job.attempts:
        fields.append((f"attempt {attempt.number}", _attempt(attempt)))
        # Those of the last one are the result's.
        if attempt.HasField("circumstances") and attempt.state != job_pb2.JOB_STATE_SUCCEEDED:
            fields.append(("  board", board_view.circumstances(attempt.circumstances)))
        if attempt.cause and attempt.state != job_pb2.JOB_STATE_CANCELED:
            was_the_last = job.state == job_pb2.JOB_STATE_FAILED and attempt == job.attempts[-1]
            fields += _diagnosis(attempt, _GIVEN_UP if was_the_last else "")
    return fields


def as_plain(record: "JobRecord") -> dict[str, Plain]:
    """``state`` is the controller's knowledge; ``job`` the newest picture from the device."""
    return {
        "id": record.id,
        "name": record.name,
        "device": record.device,
        "generation": record.generation,
        "state": job_screen.state_name(record.state),
        "created_utc_ns": record.created_utc_ns,
        "job": plain.message(record.job),
    }


def state(record: "JobRecord") -> Cell:
    """Of a job that runs and computes nothing: resting."""
    if record.job.HasField("held"):
        return Styled(job_screen.RESTING, job_screen.RESTING_STYLE)
    return Styled(job_screen.state_name(record.state), job_screen.STATE_STYLES[record.state])


def _step(job: job_pb2.Job) -> str:
    if job.HasField("generating"):
        return generation_view.prompts(job.generating)
    progress = job.progress
    if not progress.total_steps:
        return units.ABSENT
    return f"{progress.step}/{progress.total_steps}"


def _recipe(spec: job_pb2.TrainSpec, names: Mapping[str, str]) -> list[tuple[str, Cell]]:
    return [
        ("base model", generation_view.named(spec.base_digest, names)),
        (
            "LoRA",
            f"rank {spec.lora.rank}{' stabilized' if spec.lora.rank_stabilized else ''},"
            f" alpha {spec.lora.alpha:g}, {', '.join(spec.lora.targets)}",
        ),
        *_stages(spec, names),
    ]


def _stages(spec: job_pb2.TrainSpec, names: Mapping[str, str]) -> Iterator[tuple[str, Cell]]:
    for number, stage in enumerate(spec.stages, start=1):
        which = f" {number}" if len(spec.stages) > 1 else ""
        schedule = plain.enum_name(job_pb2.Schedule.DESCRIPTOR, stage.schedule)
        yield f"dataset{which}", generation_view.named(stage.dataset_digest, names)
        yield (
            f"recipe{which}",
            f"{stage.steps} steps of {spec.accumulation} × {spec.sequence_length} tokens at most,"
            f" learning rate {stage.learning_rate:g} {schedule}, seed {spec.seed}",
        )
    if spec.HasField("evaluation"):
        asked = spec.evaluation
        patience = f", patience {asked.patience}" if asked.patience else ""
        yield (
            "evaluation",
            f"{asked.held_out_fraction:.0%} held out, every {asked.period_steps} steps{patience}",
        )


def rehearsal(found: job_pb2.Rehearsal) -> list[tuple[str, Cell]]:
    """Its checks, and what they foretold."""
    fields: list[tuple[str, Cell]] = [(f"check {one.name}", one.found) for one in found.checks]
    if found.HasField("plan"):
        fields.append(("forecast", job_screen.forecast(found.plan)))
    return fields


def _progress(job: job_pb2.Job) -> list[tuple[str, Cell]]:
    progress = job.progress
    is_running = job.state == job_pb2.JOB_STATE_RUNNING
    return [
        ("step", _step(job)),
        ("loss", f"{progress.loss:.4f}"),
        ("speed", units.rate(progress.tokens_per_s)),
        ("memory", job_screen.memory(progress)),
        ("time to go", units.duration(progress.time_to_go_s) if is_running else ""),
    ]


def _result(job: job_pb2.Job) -> list[tuple[str, Cell]]:
    result = job.result
    if result.HasField("generated"):
        return generation_view.result(result)
    best = result.best
    held_out: list[tuple[str, Cell]] = [
        (
            "held-out loss",
            f"{best.loss:.4f} (perplexity {best.perplexity:.2f}) at step {best.step}, the best",
        )
    ]
    asked = sum(stage.steps for stage in job.spec.train.stages)
    early = f" of {asked}, stopped early" if result.stopped_early else ""
    return [
        ("adapter", f"{short(result.adapter_digest)} ({units.size(result.adapter_size_bytes)})"),
        ("loss", f"{result.first_loss:.4f} → {result.final_loss:.4f}"),
        *(held_out if result.HasField("best") else []),
        (
            "trained",
            f"{result.steps} steps{early}, {result.trained_tokens:,} tokens"
            f" in {units.duration(result.duration_s)} ({units.rate(result.tokens_per_s)})",
        ),
        (
            "peak memory",
            f"{units.size(result.peak_rss_bytes)}"
            f" ({units.size(result.peak_anonymous_bytes)} anonymous)",
        ),
        ("energy", board_view.energy(result)),
        ("board", board_view.circumstances(result.circumstances)),
    ]


def _attempt(attempt: job_pb2.Attempt) -> str:
    said = job_screen.state_name(attempt.state)
    if attempt.cause:
        said += f" ({plain.enum_name(job_pb2.Cause.DESCRIPTOR, attempt.cause)})"
    if attempt.HasField("started") and attempt.HasField("ended"):
        both = attempt.started.boot_id == attempt.ended.boot_id
        took_ns = attempt.ended.boottime_ns - attempt.started.boottime_ns
        said += f" after {units.duration(took_ns / 1e9)}" if both else ""
    return f"{said}: {attempt.message}" if attempt.message else said


def _diagnosis(attempt: job_pb2.Attempt, given_up: str) -> list[tuple[str, Cell]]:
    """What a person would ask next: what happens now, how things stood, the worker's last words."""
    retry = POLICIES[attempt.cause].retry
    then = given_up if given_up and retry is not Retry.NEVER else retry.value
    last_words = attempt.log_tail.strip().splitlines()[-_LAST_WORDS:]
    return [
        ("  then", then),
        ("  at its end", _conditions(attempt)),
        *(("  its log" if number == 0 else " ", line) for number, line in enumerate(last_words)),
        ("  more", causes.page(attempt.cause)),
    ]


def _conditions(attempt: job_pb2.Attempt) -> str:
    """What is not known is left out."""
    last = attempt.last
    said = []
    if last.HasField("step"):
        said.append(f"step {last.step}/{last.total_steps}")
    if last.HasField("rss_bytes"):
        peak = f", peak {units.size(attempt.peak_rss_bytes)}" if attempt.peak_rss_bytes else ""
        anonymous = f"{units.size(last.anonymous_bytes)} anonymous"
        said.append(f"worker {units.size(last.rss_bytes)} ({anonymous}{peak})")
    elif attempt.peak_rss_bytes:
        said.append(f"worker's peak {units.size(attempt.peak_rss_bytes)}")
    if last.HasField("available_bytes"):
        available = units.simulated(units.size(last.available_bytes), last.simulated)
        said.append(f"board {available} available")
    if last.HasField("temperature_c"):
        said.append(units.simulated(units.celsius(last.temperature_c), last.simulated))
    return ", ".join(said)
