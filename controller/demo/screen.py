"""What the demo shows: steps as they are done, answers as they stream, the job as it runs, a table.

On a terminal the job is one live panel; into a pipe it is a line every few steps, without colour.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controller.cli import board_view, job_screen, job_view, units
from controller.cli.job_view import JobView
from controller.demo.outcome import Answer, Outcome
from protos.nanofleet.v1.job_pb2 import JobEvent, JobResult
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

if TYPE_CHECKING:
    from controller import JobRecord

STEPS_BETWEEN_LINES = 10


class Screen:
    """Prints the story. One at a time; nothing here knows how a step is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._following: Following | None = None

    def done(self, what: str, how: str) -> None:
        line = Text.assemble(("  ✓ ", "green"), (what, "bold"), f": {how}", (self._clock(), "dim"))
        self._console.print(line, soft_wrap=True)

    def heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def note(self, text: str) -> None:
        self._console.print(Text(f"  {text}", style="dim"))

    def question(self, text: str) -> None:
        self._console.print(Text.assemble("  ", (text, "cyan"), "  "), end="")

    def token(self, text: str) -> None:
        self._console.print(Text(text), end="", soft_wrap=True)
        self._console.file.flush()

    def answered(self, tokens_per_s: float) -> None:
        self._console.print(Text(f"  {tokens_per_s:.0f} tokens/s", style="dim"))

    def observe(self, sample: TelemetrySample) -> None:
        if self._following is not None:
            self._following.observe(sample)

    @contextmanager
    def following(self, job: "JobRecord") -> "Iterator[Following]":
        """The job's panel while the block runs."""
        view = JobView(job_id=job.id, name=job.name, device=job.device)
        live = Live(console=self._console, auto_refresh=False, transient=False)
        with live if self._console.is_terminal else _nothing():
            self._following = Following(view, self._console, live)
            try:
                yield self._following
            finally:
                self._following = None

    def table(self, outcome: Outcome) -> None:
        self.heading("What happened")
        self._console.print(_answers(outcome.before, outcome.after))
        self._console.print(_figures(outcome))

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _clock(self) -> str:
        return f"  {time.monotonic() - self._started:.1f} s"


class Following:
    """The panel of one job: a value that events change, drawn anew after each."""

    def __init__(self, view: JobView, console: Console, live: Live) -> None:
        self._view = view
        self._console = console
        self._live = live

    def show(self, event: JobEvent) -> None:
        self._view = job_view.apply(event, self._view)
        if self._console.is_terminal:
            self._draw()
        elif _worth_a_line(event):
            self._console.print(Text(f"  {job_screen.event_line(event)}"), soft_wrap=True)

    def observe(self, sample: TelemetrySample) -> None:
        self._view = job_view.observe(sample, self._view)
        if self._console.is_terminal:
            self._draw()

    def say(self, text: str) -> None:
        """A sentence above the panel."""
        self._console.print(Text(f"  ✂ {text}", style="yellow"), soft_wrap=True)

    def _draw(self) -> None:
        self._live.update(job_screen.screen(self._view, self._console.width), refresh=True)


def _worth_a_line(event: JobEvent) -> bool:
    if event.HasField("progress"):
        return event.progress.step % STEPS_BETWEEN_LINES == 0
    return event.HasField("transition")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _answers(before: Sequence[Answer], after: Sequence[Answer]) -> Table:
    table = Table(title_justify="left", show_edge=False, pad_edge=False)
    for name in ("question", "before", "after"):
        table.add_column(name, overflow="fold")
    for old, new in zip(before[::2], after[::2], strict=True):
        table.add_row(old.question, old.text, Text(new.text, style="green"))
    return table


def _energy(result: JobResult) -> str:
    if not result.HasField("energy_j"):
        return "no sensor"
    return f"{board_view.energy(result)}, of the attempt that finished"


def _boards(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """What each device drew and how warm it became; every one of the demo is simulated."""
    simulated = outcome.result.circumstances.simulated
    for device, mean_mw in outcome.powers.means_mw():
        power = units.simulated(units.watts(round(mean_mw)), simulated)
        heat = units.simulated(units.celsius(outcome.powers.celsius.get(device)), simulated)
        yield f"board of {device}", f"{power} on average, {heat} at most"


def _figures(outcome: Outcome) -> Table:
    result, peaks = outcome.result, outcome.peaks
    rows = [
        ("loss", f"{result.first_loss:.3f} → {result.final_loss:.3f} in {result.steps} steps"),
        ("trained", f"{units.rate(result.tokens_per_s)}, {units.duration(result.duration_s)}"),
        ("decoded", units.rate(outcome.decoded_tokens_per_s)),
        ("energy", _energy(result)),
        *_boards(outcome),
        ("peak of the agent", units.size(peaks.agent)),
        ("peak of the training worker", units.size(peaks.training)),
        ("peak of the inference worker", units.size(peaks.inference)),
        (
            "bytes moved",
            f"{units.size(outcome.sent_bytes)} out, {units.size(outcome.received_bytes)} back",
        ),
        ("answered meanwhile", f"{outcome.served_while_training} by the other device"),
        ("after the power cut", f"went on at step {outcome.resumed_at_step}"),
        ("all of it", units.duration(outcome.duration_s)),
    ]
    table = Table(show_header=False, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
