"""What is said, and with which code the command ends, when a job has ended."""

from typing import TYPE_CHECKING

from controller.cli import job_record, job_screen, job_view, output
from controller.cli.job_view import JobView
from controller.cli.output import Card, Format

if TYPE_CHECKING:
    from controller import JobRecord


def conclude(view: JobView, form: Format) -> None:
    """After following: the outcome in a sentence; raises when the job did not succeed."""
    failed = job_view.failure(view)
    if failed is not None:
        raise failed
    if form is Format.TABLE and view.result is not None:
        output.sentence(job_screen.outcome(view.name, view.result))
        if view.result.HasField("generated"):
            output.note(f"Fetch its dataset: `nanofleet job result {view.name}`")
            output.note(f"Or train on it, in a job file: `dataset: job/{view.name}`")
            return
        output.note(f"Fetch its adapter: `nanofleet job result {view.name}`")
        output.note(f"Then talk to it: `nanofleet chat {view.device} --adapter {view.name}`")


def print_result(record: "JobRecord", form: Format) -> None:
    """After waiting: one result, then the same verdict."""
    card = Card(
        [
            ("job", record.id),
            ("name", record.name),
            ("device", record.device),
            ("state", job_record.state(record)),
            *job_record.outcome(record.job),
        ]
    )
    output.record("job", job_record.as_plain(record), card, form)
    failed = job_view.failure(job_view.of(record))
    if failed is not None:
        raise failed


def say_how_to_come_back(job_id: str) -> None:
    output.note(
        f"The job goes on. Come back with `nanofleet job watch {job_id}`,"
        f" stop it with `nanofleet job cancel {job_id}`."
    )
