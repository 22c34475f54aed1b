"""``nanofleet job``: submits, lists, shows and steers jobs (following them is in job_follow)."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import (
    follow,
    job_ending,
    job_plan,
    job_record,
    job_screen,
    options,
    output,
    session,
    transfers,
)
from controller.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from controller import Fleet, JobRecord, PlanStep
    from controller.cli.job_view import JobView

Reference = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's id or its start, or its name (the newest)."),
]
Cached = Annotated[
    bool, typer.Option("--cached", help="Ask no device: what the controller's store knows.")
]


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file (YAML).")],
    following: Annotated[
        bool | None,
        typer.Option(
            "--follow/--detach",
            help="Follow the job until it ends, or return at once.  [default: on a terminal]",
        ),
    ] = None,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Submit a job: choose a device, push what it lacks, start.

    On a terminal the job is then followed; Ctrl-C detaches, and the job goes on. In a pipe the
    job's id is printed. The exit code is the job's when it was followed.

    Example: nanofleet job submit finetune.yaml
    """
    is_seen = form is Format.TABLE and sys.stdout.isatty()
    follows = is_seen if following is None else following
    if follows:
        follow.require_stream(form)
    record = session.run(home, lambda fleet: _submitted(fleet, file, form))
    if not follows:
        _print_submitted(record, form)
        return
    output.note(f"Job {record.id} ({record.name}) is on {record.device}.")
    job_ending.conclude(_follow_or_detach(record, form, home), form)


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file (YAML).")],
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Rehearse a job on its device, without starting it: will it fit, and how long will it take?

    What the device lacks is pushed. Then the job's own worker checks the data, takes the memory,
    trains some steps, saves, reads back, converts, and llama.cpp speaks with the trial adapter.
    What does not fit is refused with the nearest settings that do.

    Example: nanofleet job plan finetune.yaml
    """

    async def rehearsed(fleet: "Fleet") -> "list[PlanStep]":
        from controller import load_job_file

        steps = []
        with transfers.shown(form) as on_progress:
            async for step in fleet.plan(load_job_file(file), on_progress):
                steps.append(step)
                job_plan.say_step(step, form)
        return steps

    job_plan.print_plan(session.run(home, rehearsed), form)


def list_jobs(
    device: Annotated[str, typer.Option("--device", help="Only jobs of this device.")] = "",
    state: Annotated[
        list[options.State] | None, typer.Option("--state", help="Only jobs in this state.")
    ] = None,
    cached: Cached = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """List jobs, the newest first.

    Example: nanofleet job list --state running --device kitchen
    """
    wanted = [one.number for one in state or []]

    async def found(fleet: "Fleet") -> "list[JobRecord]":
        if not cached:
            _say_who_was_away(await fleet.refresh())
        return fleet.jobs(device=device, states=wanted)

    records = session.run(home, found)
    output.listing(
        "jobs",
        [job_record.as_plain(record) for record in records],
        job_record.table(records, time.time_ns()),
        form,
    )


def show(
    reference: Reference,
    cached: Cached = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Show one job: its recipe, progress, attempts and result.

    Example: nanofleet job show persona
    """

    async def found(fleet: "Fleet") -> "tuple[JobRecord, dict[str, str]]":
        record = fleet.job(reference)
        if not cached:
            _say_who_was_away(await fleet.refresh(record.id))
        names = {entry.digest: entry.name for entry in fleet.artifacts() if entry.name}
        return fleet.job(record.id), names

    record, names = session.run(home, found)
    card = job_record.card(record, names, time.time_ns())
    output.record("job", job_record.as_plain(record), card, form)


def cancel(
    reference: Reference, form: options.Output = Format.TABLE, home: options.Home = None
) -> None:
    """Cancel a job. One that has ended stays as it ended.

    Example: nanofleet job cancel persona
    """
    _steer(lambda fleet: fleet.cancel(reference), form, home)


def pause(
    reference: Reference, form: options.Output = Format.TABLE, home: options.Home = None
) -> None:
    """Pause a job at its next micro-step.

    A checkpoint is written, and its memory given back.

    Example: nanofleet job pause persona
    """
    record = _steer(lambda fleet: fleet.pause(reference), form, home)
    if job_screen.state_name(record.state) == "running":
        output.note("It pauses at its next micro-step.")


def resume(
    reference: Reference, form: options.Output = Format.TABLE, home: options.Home = None
) -> None:
    """Let a paused job go on.

    Example: nanofleet job resume persona
    """
    _steer(lambda fleet: fleet.resume(reference), form, home)


def _say_who_was_away(problems: "Mapping[str, str]") -> None:
    """What is shown of these devices' jobs is what was known before."""
    for problem in problems.values():
        output.note(f"not asked: {problem}")


async def _submitted(fleet: "Fleet", file: Path, form: Format) -> "JobRecord":
    from controller import load_job_file

    job = load_job_file(file)
    with transfers.shown(form) as on_progress:
        return await fleet.submit(job, on_progress)


def _follow_or_detach(record: "JobRecord", form: Format, home: Path | None) -> "JobView":
    try:
        return session.run(home, lambda fleet: follow.follow(fleet, record, form))
    except KeyboardInterrupt:
        job_ending.say_how_to_come_back(record.id)
        raise


def _steer(
    change: "Callable[[Fleet], Awaitable[JobRecord]]", form: Format, home: Path | None
) -> "JobRecord":
    record = session.run(home, change)
    output.record(
        "job",
        job_record.as_plain(record),
        output.Card(
            [
                ("job", record.id),
                ("name", record.name),
                ("device", record.device),
                ("state", job_record.state(record)),
                ("message", record.job.message),
            ]
        ),
        form,
    )
    return record


def _print_submitted(record: "JobRecord", form: Format) -> None:
    """The bare id in a pipe: ``id=$(nanofleet job submit finetune.yaml)``."""
    if form is not Format.TABLE:
        output.record("job", job_record.as_plain(record), output.Card(()), form)
        return
    output.text(record.id)
    if sys.stdout.isatty():
        job_ending.say_how_to_come_back(record.id)
