"""Following a job until it ends: its events, and the board's power and heat beside them.

The events come from ``Fleet.watch``, which reconnects by itself for as long as it takes: a device
may be off for days, and its job goes on when it is back. Telemetry is decoration: when its stream
breaks it is opened again, and the view says meanwhile that the link is down.
"""

import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING

from controller.cli import job_screen, job_view, output, plain
from controller.cli.job_view import JobView
from controller.cli.output import Format
from protos.errors import InvalidRequest, NanofleetError, Unreachable
from protos.nanofleet.v1 import telemetry_pb2

if TYPE_CHECKING:
    from controller import Fleet, JobRecord

_FRAMES_PER_S = 4
_SILENCE_S = 5.0
# Events that stay on a terminal above the picture.
_TOLD = ("transition", "checkpoint", "check", "plan", "decided", "pruned")


async def follow(fleet: "Fleet", record: "JobRecord", form: Format) -> JobView:
    """Shows the job until it ends; a terminal sees a picture, a pipe one line for each event."""
    if form is Format.TABLE and sys.stdout.isatty():
        view = await _on_terminal(fleet, record)
    else:
        view = await _as_lines(fleet, record, form)
    # A job whose device has forgotten it ends without a last event; the store says how.
    return view if view.ended else job_view.of(fleet.job(record.id))


async def samples(
    fleet: "Fleet", device: str, on_problem: Callable[[NanofleetError], None]
) -> AsyncIterator[telemetry_pb2.TelemetrySample]:
    """Telemetry without an end: what breaks or falls silent is reported, and opened again."""
    from controller.retry import ENDLESS

    failures = 0
    while True:
        try:
            async with contextlib.aclosing(fleet.telemetry(device)) as stream:
                async for sample in _noticing_silence(stream, on_problem):
                    failures = 0
                    yield sample
            raise Unreachable(f"{device} ended its stream of telemetry.")
        except NanofleetError as error:
            failures += 1
            on_problem(error)
            await ENDLESS.sleep(ENDLESS.wait_s(failures, error))


async def _noticing_silence(
    stream: AsyncGenerator[telemetry_pb2.TelemetrySample, None],
    on_problem: Callable[[NanofleetError], None],
) -> AsyncIterator[telemetry_pb2.TelemetrySample]:
    """The stream as it is. The fleet mends a broken link by itself and says nothing meanwhile;
    whoever looks at the figures must not take old ones for new.
    """
    import asyncio

    patience_s, heard_s = _SILENCE_S, time.monotonic()
    waiting = asyncio.ensure_future(anext(stream, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=patience_s)
            if not done:
                on_problem(Unreachable(f"Nothing heard for {patience_s:.0f} s."))
                continue
            sample = waiting.result()
            if sample is None:
                return
            now_s = time.monotonic()
            # An agent may be set to sample less often than once a second.
            patience_s, heard_s = max(_SILENCE_S, 3 * (now_s - heard_s)), now_s
            yield sample
            waiting = asyncio.ensure_future(anext(stream, None))
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def require_stream(form: Format) -> None:
    """A stream has no end to close a JSON document at."""
    if form in (Format.JSON, Format.YAML):
        raise InvalidRequest(
            f"A stream cannot be printed as {form.value}.",
            why="It would be one document that is never complete.",
            fix="Use -o jsonl: one JSON document a line.",
            field="output",
        )


async def _as_lines(fleet: "Fleet", record: "JobRecord", form: Format) -> JobView:
    view = job_view.of(record)

    def on_interruption(error: NanofleetError) -> None:
        output.note(f"{error.what} Reconnecting …")

    async for event in fleet.watch(record.id, on_interruption=on_interruption):
        if form is Format.TABLE:
            output.text(job_screen.event_line(event))
        else:
            output.line(plain.message(event))
        view = job_view.apply(event, view)
    return view


async def _on_terminal(fleet: "Fleet", record: "JobRecord") -> JobView:
    import asyncio

    from rich.live import Live

    view = job_view.of(record)
    console = output.console(sys.stdout)

    async def observe() -> None:
        nonlocal view
        async for sample in samples(fleet, record.device, on_problem):
            view = job_view.observe(sample, view)

    def on_problem(error: NanofleetError) -> None:
        nonlocal view
        view = job_view.disconnected(error.what, view)

    with Live(
        console=console,
        get_renderable=lambda: job_screen.screen(view, console.width),
        refresh_per_second=_FRAMES_PER_S,
        transient=True,
    ):
        board = asyncio.create_task(observe(), name=f"telemetry of {record.device}")
        try:
            async for event in fleet.watch(record.id, on_interruption=on_problem):
                view = job_view.apply(event, view)
                if event.WhichOneof("body") in _TOLD:
                    console.print(job_screen.event_line(event), style="dim")
        finally:
            board.cancel()
            await asyncio.gather(board, return_exceptions=True)
    return view
