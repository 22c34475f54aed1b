"""A job's progress on a terminal, and its events as single lines.

    running   persona on kitchen
    ━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━━   48/120 steps, 2 min 13 s to go
    loss      1.2345  ▇▆▅▅▄▃▃▂▂▁
    speed     182 tokens/s
    memory    468 MB anonymous + 1.04 GB file-backed
    board     7.2 W, 54 °C

With several stages the first line names the one that runs, and with an evaluation the loss is
followed by

    held-out  1.3127 (perplexity 3.72) after step 40; best 1.2988 after step 30

A batch generation has prompts in the place of steps, and in the place of the loss what became of
the answers.

Two memory figures, because they mean different things: anonymous memory is what the job costs,
file-backed memory is the base model's pages, which are shared with the server and given back under
pressure.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.cli import board_view, generation_view, units
from controller.cli.job_view import JobView
from controller.cli.plain import enum_name
from protos.nanofleet.v1 import job_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

_BLOCKS = "▁▂▃▄▅▆▇█"
_LABEL_WIDTH = 10

STATE_STYLES: dict["job_pb2.JobState.ValueType", str] = {
    job_pb2.JOB_STATE_UNSPECIFIED: "dim",
    job_pb2.JOB_STATE_QUEUED: "cyan",
    job_pb2.JOB_STATE_RUNNING: "bold blue",
    job_pb2.JOB_STATE_PAUSED: "yellow",
    job_pb2.JOB_STATE_SUCCEEDED: "bold green",
    job_pb2.JOB_STATE_FAILED: "bold red",
    job_pb2.JOB_STATE_CANCELED: "magenta",
}


# Of a job that runs and computes nothing: for heat, the hours, a request …
RESTING, RESTING_STYLE = "resting", "yellow"


def state_name(state: "job_pb2.JobState.ValueType") -> str:
    """``running``; a job that no device has confirmed yet is ``assigned``."""
    if state == job_pb2.JOB_STATE_UNSPECIFIED:
        return "assigned"
    return enum_name(job_pb2.JobState.DESCRIPTOR, state)


def screen(view: JobView, columns: int) -> "RenderableType":
    """The lines above, fitted to ``columns``; what is not known yet has no line."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [_headline(view)]
    progress = view.progress
    if view.generating is not None:
        lines += _generating(view.generating, columns)
    elif progress is not None:
        lines.append(_bar(progress.step, progress.total_steps, "steps",
                          progress.time_to_go_s, columns))  # fmt: skip
        curve = sparkline(view.losses, min(40, columns - _LABEL_WIDTH - 10))
        lines.append(_fact("loss", f"{progress.loss:.4f}  {curve}"))
        if view.evaluations:
            lines.append(_fact("held-out", _held_out(view.evaluations)))
        lines.append(_fact("speed", units.rate(progress.tokens_per_s)))
        lines.append(_fact("memory", memory(progress)))
    elif view.state == job_pb2.JOB_STATE_RUNNING and not view.rests:
        lines.append(_fact("preparing", "data, model, first step …"))
    if view.rests:
        lines.append(Text(view.rests, style=RESTING_STYLE))
    board = _board(view)
    if board:
        lines.append(_fact("board", board))
    if view.link_problem:
        lines.append(Text(f"{view.link_problem} Reconnecting …", style="yellow"))
    return Group(*lines)


def _generating(now: job_pb2.GenerateProgress, columns: int) -> "list[RenderableType]":
    return [
        _bar(now.prompts, now.total_prompts, "prompts", now.time_to_go_s, columns),
        _fact("answers", generation_view.answers(now.kept, now.faults)),
        _fact("speed", units.rate(now.tokens_per_s)),
        _fact("memory", memory(now)),
    ]


def memory(progress: job_pb2.TrainProgress | job_pb2.GenerateProgress) -> str:
    return (
        f"{units.size(progress.anonymous_bytes)} anonymous"
        f" + {units.size(progress.file_bytes)} file-backed"
    )


def event_line(event: job_pb2.JobEvent) -> str:
    """One line for a pipe or a log: time, then what happened."""
    body = event.WhichOneof("body")
    if body == "transition":
        said = _transition(event.transition)
    elif body == "progress":
        said = _progress(event.progress)
    elif body == "generated":
        said = generation_view.progress_line(event.generated)
    elif body == "checkpoint":
        saved = event.checkpoint
        said = f"checkpoint at step {saved.step} ({units.size(saved.size_bytes)})"
    elif body == "evaluated":
        said = evaluation(event.evaluated)
    elif body == "check":
        said = check(event.check)
    elif body == "plan":
        said = forecast(event.plan)
    elif body == "decided":
        said = decision(event.decided)
    elif body == "pruned":
        said = pruned(event.pruned)
    elif body == "log":
        said = event.log.text.rstrip("\n")
    else:
        said = "an event that this version does not know"
    return f"{units.stamp(event.at.utc_ns)}  {said}"


def pruned(gone: job_pb2.EventsPruned) -> str:
    why = ", and no controller had confirmed them" if gone.unacknowledged else ""
    return f"{gone.events:,} events were here; the device has let go of them to make room{why}"


def evaluation(found: job_pb2.Evaluated) -> str:
    best = ", the best so far" if found.best else ""
    return (
        f"held-out loss {found.loss:.4f} after step {found.step}"
        f" (perplexity {found.perplexity:.2f}, {found.tokens:,} tokens){best}"
    )


def decision(told: job_pb2.Decided) -> str:
    return f"{told.act}: {told.reason}"


def check(passed: job_pb2.PlanCheck) -> str:
    return f"{passed.name}: {passed.found} ({units.duration(passed.took_s)})"


def forecast(plan: job_pb2.JobPlan) -> str:
    """What a job will take, by its rehearsal."""
    said = (
        f"it will take {units.duration(plan.duration_s)} at {units.rate(plan.tokens_per_s)},"
        f" and a peak of {units.size(plan.peak_bytes)}"
    )
    return f"{said}, {board_view.forecast_energy(plan)}" if plan.HasField("energy_j") else said


def outcome(name: str, result: job_pb2.JobResult) -> str:
    """How a job that succeeded ended, in a sentence or two."""
    if result.HasField("generated"):
        return generation_view.outcome(name, result)
    best = ""
    if result.HasField("best"):
        best = f" held-out loss {result.best.loss:.4f} at step {result.best.step},"
    early = ", stopped early," if result.stopped_early else ""
    said = (
        f"{name}: {result.steps} steps{early} in {units.duration(result.duration_s)}"
        f" ({units.rate(result.tokens_per_s)}),"
        f" loss {result.first_loss:.4f} → {result.final_loss:.4f},{best}"
        f" peak memory {units.size(result.peak_rss_bytes)}"
        f" ({units.size(result.peak_anonymous_bytes)} anonymous)"
    )
    if result.HasField("energy_j"):
        said += f", {board_view.energy(result)}"
    return said + "."


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as at most ``width`` blocks: means of equal shares, scaled to the range."""
    finite = [value for value in values if value - value == 0]
    if not finite or width < 1:
        return ""
    count = min(width, len(finite))
    edges = [len(finite) * part // count for part in range(count + 1)]
    means = [sum(finite[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    top = len(_BLOCKS) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def _headline(view: JobView) -> "RenderableType":
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    said, style = state_name(view.state), STATE_STYLES.get(view.state, "")
    if view.rests:
        said, style = RESTING, RESTING_STYLE
    line.append(said.ljust(_LABEL_WIDTH), style=style)
    line.append(view.name, style="bold")
    line.append(f" on {view.device}")
    if view.attempt > 1:
        line.append(f", attempt {view.attempt}", style="yellow")
    if view.progress is not None and view.progress.total_stages > 1:
        line.append(f", stage {view.progress.stage} of {view.progress.total_stages}")
    if view.message:
        line.append(f"  {view.message}", style="dim")
    return line


def _bar(done: int, total: int, unit: str, time_to_go_s: float, columns: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    said = f"{done}/{total} {unit}"
    if done < total:
        said += f", {units.duration(time_to_go_s)} to go"
    row = Table.grid(padding=(0, 3, 0, 0))
    # Room for "9999/9999 steps, 59 min 59 s to go", so that the bar does not breathe.
    width = max(10, min(columns, 100) - 3 - max(36, len(said)))
    row.add_row(ProgressBar(total=max(total, 1), completed=done, width=width), said)
    return row


def _fact(label: str, value: str) -> "RenderableType":
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(label.ljust(_LABEL_WIDTH), style="dim")
    line.append(value)
    return line


def _board(view: JobView) -> str:
    known = []
    if view.power_mw is not None:
        known.append(units.simulated(units.watts(view.power_mw), view.is_simulated))
    if view.temperature_c is not None:
        known.append(units.simulated(units.celsius(view.temperature_c), view.is_simulated))
    return ", ".join(known)


def _held_out(evaluations: Sequence[job_pb2.Evaluated]) -> str:
    """The newest, and the best where that is another."""
    newest = evaluations[-1]
    said = f"{newest.loss:.4f} (perplexity {newest.perplexity:.2f}) after step {newest.step}"
    if newest.best:
        return f"{said}, the best so far" if len(evaluations) > 1 else said
    best = next((found for found in reversed(evaluations) if found.best), None)
    return said if best is None else f"{said}; best {best.loss:.4f} after step {best.step}"


def _transition(transition: job_pb2.Transition) -> str:
    said = state_name(transition.to)
    if transition.cause:
        said += f" ({enum_name(job_pb2.Cause.DESCRIPTOR, transition.cause)})"
    return f"{said}: {transition.message}" if transition.message else said


def _progress(progress: job_pb2.TrainProgress) -> str:
    several = progress.total_stages > 1
    stage = f"  stage {progress.stage}/{progress.total_stages}" if several else ""
    return (
        f"step {progress.step}/{progress.total_steps}{stage}  loss {progress.loss:.4f}"
        f"  {units.rate(progress.tokens_per_s)}  {memory(progress)}"
        f"  {units.duration(progress.time_to_go_s)} to go"
    )
