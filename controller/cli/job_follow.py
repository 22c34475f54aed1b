"""``nanofleet job watch``, ``wait``, ``logs`` and ``result``: what a job says, and what it made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import (
    artifact_view,
    follow,
    job_ending,
    job_screen,
    options,
    output,
    plain,
    session,
    units,
)
from controller.cli.job import Reference
from controller.cli.output import Card, Format
from controller.records import KIND_WORDS
from protos.errors import TimedOut

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet, JobRecord
    from controller.cli.job_view import JobView
    from protos.nanofleet.v1 import job_pb2

_Item = dict[str, plain.Plain]
_LOGGED = ("log", "check", "plan")


def watch(
    reference: Reference, form: options.Output = Format.TABLE, home: options.Home = None
) -> None:
    """Stream what a job does until it ends.

    The exit code is the job's. A terminal shows its progress, a pipe gets a line for each event
    (-o jsonl: each in full). A link that breaks is waited for. Ctrl-C stops watching, not the
    job.

    Example: nanofleet job watch persona -o jsonl
    """
    follow.require_stream(form)

    async def watched(fleet: "Fleet") -> "JobView":
        return await follow.follow(fleet, fleet.job(reference), form)

    try:
        view = session.run(home, watched)
    except KeyboardInterrupt:
        output.note(f"The job goes on. Come back with `nanofleet job watch {reference}`.")
        raise
    job_ending.conclude(view, form)


def wait(
    reference: Reference,
    timeout: Annotated[
        str, typer.Option("--timeout", help="Give up after 90s, 15m, 2h.  [default: never]")
    ] = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Wait until a job has ended, and print its result.

    The exit code is the job's.

    Example: nanofleet job wait persona --timeout 2h -o json
    """
    timeout_s = options.seconds(timeout, "timeout") if timeout else None

    async def ended(fleet: "Fleet") -> "JobRecord":
        try:
            return await fleet.wait(reference, timeout_s)
        except TimedOut as error:
            raise TimedOut(
                f"Job {reference} has not ended within {units.duration(timeout_s)}.",
                why=error.why,
                fix="Wait again, or give it a longer --timeout.",
            ) from None

    job_ending.print_result(session.run(home, ended), form)


def logs(
    reference: Reference, form: options.Output = Format.TABLE, home: options.Home = None
) -> None:
    """Print what a job's worker wrote, and what its rehearsal has shown.

    The last lines of each attempt that failed follow.

    Example: nanofleet job logs persona
    """

    async def found(fleet: "Fleet") -> "tuple[JobRecord, list[job_pb2.JobEvent]]":
        record = fleet.job(reference)
        await fleet.refresh(record.id)
        return fleet.job(record.id), fleet.events(record.id)

    record, events = session.run(home, found)
    lines = [event for event in events if event.WhichOneof("body") in _LOGGED]
    failed = [attempt for attempt in record.job.attempts if attempt.cause and attempt.log_tail]
    if form is not Format.TABLE:
        tails: list[_Item] = [{"attempt": one.number, "log_tail": one.log_tail} for one in failed]
        _print_logs([plain.message(event) for event in lines], tails, form)
        return
    for event in lines:
        output.text(job_screen.event_line(event))
    for attempt in failed:
        output.note(f"The last lines of attempt {attempt.number}:")
        output.text(attempt.log_tail.rstrip("\n"))
    if not lines and not failed:
        output.note(f"Job {record.id} has written nothing yet.")


def result(
    reference: Reference,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Unpack the adapter into this folder, the dataset as this file."),
    ] = None,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Fetch what a job that succeeded has made: its adapter, or its dataset.

    It goes into the fleet's store, under the job's name.

    Example: nanofleet job result persona --to ./persona-adapter
    """

    async def fetched(fleet: "Fleet") -> "tuple[CatalogueEntry, Path]":
        entry = await fleet.fetch_result(reference)
        return entry, fleet.path_of(entry.digest)

    entry, path = session.run(home, fetched)
    kind = KIND_WORDS[entry.kind]
    if to is not None:
        _unpack(path, entry, to)
    fields = [
        (kind, entry.name),
        ("digest", entry.digest),
        ("size", units.size(entry.size_bytes)),
        ("folder" if kind == "adapter" else "file", str(to) if to is not None else ""),
    ]
    shown = {**artifact_view.as_plain(entry), "folder": str(to) if to is not None else None}
    output.record(kind, shown, Card(fields), form)


def _print_logs(lines: list[_Item], tails: list[_Item], form: Format) -> None:
    if form is Format.JSONL:
        for one in [*lines, *tails]:
            output.line(one)
        return
    output.whole({"lines": list(lines), "tails": list(tails)}, form)


def _unpack(path: Path, entry: "CatalogueEntry", target: Path) -> None:
    from artifacts import adapter, dataset
    from protos.nanofleet.v1.artifact_pb2 import ARTIFACT_KIND_DATASET

    if entry.kind == ARTIFACT_KIND_DATASET:
        dataset.unpack(path, target)
    else:
        adapter.unpack(path, target)
