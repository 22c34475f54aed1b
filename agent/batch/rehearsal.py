"""What a batch generation will take, before it is started.

Every prompt is counted with the model's own tokenizer, and the first few are answered. Nothing is
kept of them. Orders are obeyed between two prompts, and between two tokens of an answer; a pause
counts in no figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.batch import asking
from agent.batch.asking import Asked
from agent.batch.model import Model
from agent.batch.obeying import Obeying, Stopped
from agent.batch.tally import Tally, dropped_by
from agent.memory import torch_build
from agent.memory.forecast import Forecast, inference_forecast
from agent.quality.answers import Fault, fault_of
from agent.workers import residency
from agent.workers.commands import Commands
from artifacts import base_model, prompts, template
from protos import faults
from protos.errors import InvalidDataset
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.worker_pb2 import (
    StartGenerating,
    TrainingRehearsed,
    TrainingReport,
    TrainingStopped,
)

_MOST_ANSWERS = 4
_LONGEST_S = 20.0


@dataclass(slots=True)
class _Counts:
    """Of the prompts; ``tokens`` are those of prompts that fit."""

    prompts: int = 0
    tokens: int = 0
    longest: int = 0
    too_long: int = 0
    empty: int = 0

    def note(self, tokens: int, context_length: int) -> bool:
        """Whether a prompt of so many tokens fits."""
        self.longest = max(self.longest, tokens)
        self.too_long += tokens >= context_length
        self.tokens += tokens if tokens < context_length else 0
        return tokens < context_length


def rehearse(
    start: StartGenerating, commands: Commands, report: Callable[[TrainingReport], None]
) -> None:
    """The checks as they pass, then the plan, or that it was stopped. Raises what the job would
    fail with."""
    base = base_model.read(Path(start.base_path))
    forecast = inference_forecast(
        base, start.spec.context_length, start.engine or "llama", torch_build.installed()
    )
    counts, tally = _Counts(), Tally(dropped_by(start.spec))
    obeying = Obeying(commands, report, lambda: counts.prompts)
    began_s = obeying.worked_s()

    def say(name: str, found: str) -> None:
        nonlocal began_s
        took_s, began_s = obeying.worked_s() - began_s, obeying.worked_s()
        check = job_pb2.PlanCheck(name=name, found=found, took_s=took_s)
        report(TrainingReport(check=check))

    model = Model.opened(start)
    try:
        first = _count(start, model, counts, obeying)
        say("data", _told(start, counts))
        _try(start, model, first, tally, obeying)
        say("generation", _heard(tally))
    except Stopped:
        report(TrainingReport(stopped=TrainingStopped(step=counts.prompts)))
        return
    finally:
        model.close()
    plan = _plan(start, counts, tally, forecast)
    report(TrainingReport(rehearsed=TrainingRehearsed(plan=plan)))


def _count(
    start: StartGenerating, model: Model, counts: _Counts, obeying: Obeying
) -> list[tuple[int, Asked]]:
    """Returns the first few prompts that fit, with their lines."""
    spec = start.spec
    first: list[tuple[int, Asked]] = []
    needed = template.named_in(spec)
    for line in prompts.read(Path(start.dataset_path), name=spec.dataset_name, needed=needed):
        obeying.check()
        counts.prompts += 1
        prompt = asking.asked(spec, line)
        if prompt is None:
            counts.empty += 1
        elif counts.note(model.tokens_of(prompt), model.engine.context_length):
            first = first if len(first) >= _MOST_ANSWERS else [*first, (line.line, prompt)]
    if not first:
        raise InvalidDataset(
            f"None of the {counts.prompts:,} prompts can be answered: {_told(start, counts)}.",
            fix="Change the template, or raise context_length.",
        )
    return first


def _try(
    start: StartGenerating,
    model: Model,
    first: list[tuple[int, Asked]],
    tally: Tally,
    obeying: Obeying,
) -> None:
    began_s = obeying.worked_s()
    wants_json = start.spec.WhichOneof("grammar") == "json_schema"
    for line, prompt in first:
        obeying.check()
        seed = asking.seed_of(start.spec.sampling.seed, line, 1)
        reply = model.answer(prompt, seed, obeying.may_go_on)
        if reply is None:
            raise Stopped
        fault: Fault | None = reply.fault or fault_of(
            reply.text, reply.ending, wants_json=wants_json, is_repeated=False
        )
        tally.add(line, fault, reply.tokens, reply.took_s)
        if obeying.worked_s() - began_s > _LONGEST_S:
            break


def _told(start: StartGenerating, counts: _Counts) -> str:
    said = f"{counts.prompts:,} prompts, the longest of {counts.longest:,} tokens"
    if counts.too_long:
        said += f"; {counts.too_long:,} do not fit the context of {start.spec.context_length:,}"
    return said + (f"; {counts.empty:,} are empty" if counts.empty else "")


def _heard(tally: Tally) -> str:
    said = f"{tally.answers} answers, {tally.kept} of them kept"
    doubtful = faults.told(tally.faults())
    return f"{said}: {doubtful}" if doubtful else said


def _plan(
    start: StartGenerating, counts: _Counts, tally: Tally, forecast: Forecast
) -> job_pb2.JobPlan:
    """As long for each answer as the first few took: they end by themselves or at max_tokens."""
    answers = (counts.prompts - counts.too_long - counts.empty) * start.spec.answers
    memory = [(part.name, part.size_bytes) for part in forecast.anonymous]
    memory += [("libraries", forecast.libraries_bytes), ("base model", forecast.weights_bytes)]
    return job_pb2.JobPlan(
        memory=[job_pb2.MemoryPart(name=name, size_bytes=size) for name, size in memory],
        peak_bytes=forecast.peak_bytes,
        measured_peak_bytes=residency.measure().peak_rss_bytes,
        duration_s=answers * tally.took_s / tally.answers,
        tokens_per_s=tally.tokens_per_s,
        threads=start.threads,
        prompts=job_pb2.PromptPlan(
            dataset_name=start.spec.dataset_name,
            prompts=counts.prompts,
            answers=answers,
            prompt_tokens=counts.tokens,
            longest_tokens=counts.longest,
            too_long=counts.too_long,
            context_length=start.spec.context_length,
        ),
    )
