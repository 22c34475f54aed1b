"""A job's rehearsal: its checks as they pass, then what the job will take."""

from typing import TYPE_CHECKING

from controller.cli import board_view, generation_view, job_screen, output, plain, units
from controller.cli.output import Card, Cell, Format
from controller.cli.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller import PlanStep
    from protos.nanofleet.v1.job_pb2 import JobPlan, PlanCheck


def say_step(step: "PlanStep", form: Format) -> None:
    """A line on stderr for a check that has passed, and for a rest; in JSON lines, an object on
    stdout."""
    from protos.nanofleet.v1.job_pb2 import Decided, PlanCheck

    found = step.found
    if isinstance(found, PlanCheck):
        item, said = {"check": _check(found)}, job_screen.check(found)
    elif isinstance(found, Decided):
        item, said = {"decided": plain.message(found)}, job_screen.decision(found)
    else:
        return
    if form is Format.JSONL:
        output.line(item)
    elif form is Format.TABLE:
        output.note(said)


def print_plan(steps: "Sequence[PlanStep]", form: Format) -> None:
    """Raises WorkerFailed when the device sent none."""
    from protos.errors import WorkerFailed
    from protos.nanofleet.v1.job_pb2 import JobPlan, PlanCheck

    checks = [step.found for step in steps if isinstance(step.found, PlanCheck)]
    if not steps or not isinstance(steps[-1].found, JobPlan):
        raise WorkerFailed("The device ended the rehearsal without a plan.", fix="See its log.")
    device, plan = steps[-1].device, steps[-1].found
    passed: list[Plain] = [_check(check) for check in checks]
    item: dict[str, Plain] = {**_plain(device, plan), "checks": passed}
    output.record("plan", item, _card(device, plan), form)


def _check(check: "PlanCheck") -> dict[str, Plain]:
    return {"name": check.name, "found": check.found, "took_s": check.took_s}


def _plain(device: str, plan: "JobPlan") -> dict[str, Plain]:
    memory: list[Plain] = [
        {"name": part.name, "size_bytes": part.size_bytes} for part in plan.memory
    ]
    stages: list[Plain] = [
        {
            "dataset": stage.dataset_name,
            "samples": stage.samples,
            "held_out_samples": stage.held_out_samples,
            "tokens": stage.tokens,
            "labelled_tokens": stage.labelled_tokens,
            "longest_tokens": stage.longest_tokens,
            "steps": stage.steps,
            "epochs": stage.epochs,
            "duration_s": stage.duration_s,
        }
        for stage in plan.stages
    ]
    return {
        "device": device,
        "peak_bytes": plan.peak_bytes,
        "usable_bytes": plan.usable_bytes,
        "measured_peak_bytes": plan.measured_peak_bytes,
        "calibrated_peak_bytes": plan.calibrated_peak_bytes,
        "memory": memory,
        "stored_layers": plan.stored_layers,
        "head_rows": plan.head_rows,
        "packing": plan.packing,
        "threads": plan.threads,
        "data_type": plan.data_type,
        "stages": stages,
        "prompts": plain.message(plan.prompts) if plan.HasField("prompts") else None,
        "duration_s": plan.duration_s,
        "tokens_per_s": plan.tokens_per_s,
        "energy_j": plan.energy_j if plan.HasField("energy_j") else None,
        "simulated": plan.simulated,
    }


def _known(plan: "JobPlan") -> str:
    if plan.calibrated_peak_bytes <= plan.peak_bytes:
        return ""
    return f", {units.size(plan.calibrated_peak_bytes)} by what was measured there before"


def _card(device: str, plan: "JobPlan") -> Card:
    """The parts of the peak from the largest on; what rounds to nothing is left out."""
    parts = sorted(plan.memory, key=lambda part: -part.size_bytes)
    fields: list[tuple[str, Cell]] = [
        ("device", device),
        ("verdict", f"it fits: {units.size(plan.usable_bytes)} are for workers on {device}"),
        ("peak", f"{units.size(plan.peak_bytes)} predicted{_known(plan)}"),
        *((f"  {part.name}", units.size(part.size_bytes)) for part in parts if part.size_bytes),
        ("settings", "" if plan.HasField("prompts") else _settings(plan)),
    ]
    if plan.HasField("prompts"):
        fields.append(("prompts", generation_view.plan(plan.prompts)))
        fields.append(("answers", f"{plan.prompts.answers:,}, threads: {plan.threads}"))
    for stage in plan.stages:
        name = f"stage {stage.dataset_name}" if len(plan.stages) > 1 else "data"
        held_out = f" and {stage.held_out_samples:,} held out" if stage.held_out_samples else ""
        fields.append((name, f"{stage.samples:,} samples{held_out}, {stage.tokens:,} tokens"))
        fields.append(
            ("  steps", f"{stage.steps:,}: {stage.epochs:.3g} epochs, "
                        f"{units.duration(stage.duration_s)}")
        )  # fmt: skip
    fields.append(("speed", units.rate(plan.tokens_per_s)))
    fields.append(("duration", units.duration(plan.duration_s)))
    if plan.HasField("energy_j"):
        fields.append(("energy", board_view.forecast_energy(plan)))
    return Card(fields)


def _settings(plan: "JobPlan") -> str:
    packed = "samples packed" if plan.packing else "samples one by one"
    return f"{plan.stored_layers} stored layers, {packed}, {plan.threads} threads, {plan.data_type}"
