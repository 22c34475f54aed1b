"""How a batch generation is shown: what it asks, how far it is, what became of the answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controller.cli import board_view, plain, units
from controller.cli.artifact_view import short
from protos import faults
from protos.nanofleet.v1 import job_pb2

if TYPE_CHECKING:
    from controller.cli.output import Cell

_SHOWN_CHARACTERS = 72


def prompts(progress: job_pb2.GenerateProgress) -> str:
    if not progress.total_prompts:
        return units.ABSENT
    return f"{progress.prompts}/{progress.total_prompts}"


def answers(kept: int, counts: Sequence[job_pb2.FaultCount]) -> str:
    """``38 kept, 2 left out: 2 cut off at max_tokens (first in line 7)``"""
    left_out = [count for count in counts if count.dropped]
    said = f"{kept:,} kept"
    if left_out:
        answers = sum(count.answers for count in left_out)
        said += f", {answers:,} left out: {faults.told(left_out)}"
    doubtful = faults.told(count for count in counts if not count.dropped)
    return f"{said}; among the kept {doubtful}" if doubtful else said


def progress_line(progress: job_pb2.GenerateProgress) -> str:
    return (
        f"prompt {prompts(progress)}  {answers(progress.kept, progress.faults)}"
        f"  {units.rate(progress.tokens_per_s)}  {units.duration(progress.time_to_go_s)} to go"
    )


def outcome(name: str, result: job_pb2.JobResult) -> str:
    """How a generation that succeeded ended, in a sentence."""
    made = result.generated
    said = (
        f"{name}: {made.prompts:,} prompts in {units.duration(result.duration_s)}"
        f" ({units.rate(result.tokens_per_s)}), {answers(made.kept, made.faults)},"
        f" peak memory {units.size(result.peak_rss_bytes)}"
    )
    if result.HasField("energy_j"):
        said += f", {board_view.energy(result)}"
    return said + "."


def recipe(spec: job_pb2.GenerateSpec, names: Mapping[str, str]) -> "list[tuple[str, Cell]]":
    """``names`` are the fleet's names of artifacts, by digest."""
    sampling = spec.sampling
    shape = plain.enum_name(job_pb2.OutputShape.DESCRIPTOR, spec.output)
    return [
        ("base model", named(spec.base_digest, names)),
        ("adapter", named(spec.adapter_digest, names) if spec.adapter_digest else ""),
        ("dataset", named(spec.dataset_digest, names)),
        *_asked(spec),
        (
            "sampling",
            f"{spec.answers} to each prompt, {spec.max_tokens} tokens at most, temperature"
            f" {sampling.temperature:g}, seed {sampling.seed}, as {shape}",
        ),
    ]


def progress(job: job_pb2.Job) -> "list[tuple[str, Cell]]":
    now = job.generating
    is_running = job.state == job_pb2.JOB_STATE_RUNNING
    return [
        ("prompts", prompts(now)),
        ("answers", answers(now.kept, now.faults)),
        ("speed", units.rate(now.tokens_per_s)),
        (
            "memory",
            f"{units.size(now.anonymous_bytes)} anonymous"
            f" + {units.size(now.file_bytes)} file-backed",
        ),
        ("time to go", units.duration(now.time_to_go_s) if is_running else ""),
    ]


def result(found: job_pb2.JobResult) -> "list[tuple[str, Cell]]":
    made = found.generated
    return [
        ("dataset", f"{short(made.dataset_digest)} ({units.size(made.dataset_size_bytes)})"),
        ("answers", answers(made.kept, made.faults)),
        (
            "generated",
            f"{made.tokens:,} tokens to {made.prompts:,} prompts in"
            f" {units.duration(found.duration_s)} ({units.rate(found.tokens_per_s)})",
        ),
        (
            "peak memory",
            f"{units.size(found.peak_rss_bytes)}"
            f" ({units.size(found.peak_anonymous_bytes)} anonymous)",
        ),
        ("energy", board_view.energy(found)),
        ("board", board_view.circumstances(found.circumstances)),
    ]


def plan(found: job_pb2.PromptPlan) -> str:
    left_out = f", {found.too_long:,} do not fit and are left out" if found.too_long else ""
    return (
        f"{found.prompts:,} of {found.prompt_tokens:,} tokens, the longest of"
        f" {found.longest_tokens:,}, in a context of {found.context_length:,}{left_out}"
    )


def named(digest: str, names: Mapping[str, str]) -> str:
    known = names.get(digest)
    return f"{known} ({short(digest)})" if known else short(digest)


def _asked(spec: job_pb2.GenerateSpec) -> "list[tuple[str, Cell]]":
    match spec.WhichOneof("template"):
        case "prompt":
            return [("prompt", _shortened(spec.prompt))]
        case "chat":
            return [(message.role, _shortened(message.content)) for message in spec.chat.messages]
    system = spec.conversation.system
    return [
        ("system", _shortened(system) if system else ""),
        ("prompt", "each line's conversation, up to its last answer"),
    ]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"
