"""Job files: what a person writes to have a model trained, or a dataset answered by one.

    # nanofleet job submit finetune.yaml
    name: persona
    device: kitchen            # or  selector: site=lab
    train:
      base: gemma-3-1b-it      # name or digest in the fleet's catalogue
      dataset: persona.jsonl   # path beside this file, or name or digest
      steps: 120               # or epochs: 3
      rank: 8
      learning_rate: 2e-5

Instead of one dataset, ``stages`` lists several with their own lengths and learning rates; what a
stage does not say, it takes from above. ``evaluation`` holds samples back to tell when to stop.
What stands below ``generate``, in the place of ``train``, is in generate_section.py, and what
stands below ``limits``, beside either, in limits_section.py.

Strict, because a misspelt key would train for hours with a default: an unknown key is an error
that names the line and the key that was probably meant. The defaults are for small instruct
models; the one that depends on the model is the learning rate. The JobSpec that results has every
field set: the device fills in nothing.
"""

import difflib
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from controller import peft_options, yaml_lines
from controller import selector as selectors
from controller.generate_section import Generate, TemplateMessage
from controller.jobfields import Fraction, Real, Strict, as_tuple, size_bytes
from controller.limits_section import Limits
from controller.records import StageData
from controller.yaml_lines import Document
from protos.errors import InvalidRequest
from protos.identity import NAME
from protos.nanofleet.v1 import job_pb2
from protos.recipe import held_out_samples

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ATTENTION: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL: tuple[Projection, ...] = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

# What a model that answers already bears, and what one needs that only continues text.
INSTRUCT_LEARNING_RATE = 2e-5
BASE_LEARNING_RATE = 2e-4

# For how long a device may be out of contact before a job that may moves on from it.
LOST_AFTER_MINUTES = 30.0

SCHEDULES = {
    "constant": job_pb2.SCHEDULE_CONSTANT,
    "linear": job_pb2.SCHEDULE_LINEAR,
    "cosine": job_pb2.SCHEDULE_COSINE,
}

_UINT32_MAX = (1 << 32) - 1
_MOST_STAGES = 16


def _one_or_more(value: object) -> object:
    """``all``, ``attention``, one projection, or a list of them."""
    if isinstance(value, str):
        return {"all": ALL, "attention": ATTENTION}.get(value, (value,))
    return as_tuple(value)


def _name(value: str) -> str:
    if NAME.fullmatch(value) is None:
        raise ValueError("a name has 1 to 63 lower-case letters, digits and inner hyphens")
    return value


def _selector(value: str) -> str:
    try:
        selectors.parse(value)
    except InvalidRequest as error:
        raise ValueError(f"{error.what} {error.why}") from error
    return value


Targets = Annotated[tuple[Projection, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Steps = Annotated[int, Field(ge=1, le=1_000_000)]
Epochs = Annotated[Real, Field(gt=0, le=10_000)]
LearningRate = Annotated[Real, Field(gt=0, le=1)]
ScheduleName = Literal["constant", "linear", "cosine"]


class Stage(Strict):
    """One of several datasets that are learnt after each other. What it leaves out is taken from
    the recipe around it."""

    dataset: Annotated[str, Field(min_length=1)] | None = None
    steps: Steps | None = None
    epochs: Epochs | None = None
    learning_rate: LearningRate | None = None
    schedule: ScheduleName | None = None
    warmup: Fraction | None = None

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either `steps` or `epochs`")
        return self


class Evaluation(Strict):
    """Samples that are held out of the training, and when they are asked."""

    held_out: Annotated[Fraction, Field(gt=0, le=0.5)] = 0.1
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    def to_proto(self) -> job_pb2.Evaluation:
        return job_pb2.Evaluation(
            held_out_fraction=self.held_out, period_steps=self.every, patience=self.patience
        )


class Train(Strict):
    """The recipe. Either ``steps`` or ``epochs``; a ``dataset``, or ``stages`` with theirs."""

    base: Annotated[str, Field(min_length=1)]
    dataset: Annotated[str, Field(min_length=1)] | None = None
    steps: Steps | None = None
    epochs: Epochs | None = None
    stages: (
        Annotated[
            tuple[Stage, ...],
            BeforeValidator(as_tuple),
            Field(min_length=1, max_length=_MOST_STAGES),
        ]
        | None
    ) = None
    evaluation: Evaluation | None = None
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[Real, Field(gt=0, le=4096)] = 16.0
    targets: Targets = ALL
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    rslora: bool = False
    sequence_length: Annotated[int, Field(ge=8, le=32_768)] = 256
    accumulation: Annotated[int, Field(ge=1, le=1024)] = 8
    learning_rate: LearningRate | None = None
    schedule: ScheduleName = "cosine"
    warmup: Fraction = 0.1
    gradient_clip: Annotated[Real, Field(ge=0, le=1000)] = 0.3
    weight_decay: Annotated[Real, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    checkpoint_minutes: Annotated[Real, Field(gt=0, le=1440)] = 5.0
    packing: bool = True
    stored_layers: Annotated[int, Field(ge=0, le=1024)] = 0
    memory_budget: (
        Annotated[int, BeforeValidator(size_bytes), Field(ge=100_000_000, le=1 << 50)] | None
    ) = None
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    holds_memory: bool = False

    @model_validator(mode="after")
    def _complete(self) -> "Train":
        if self.stages is None and self.dataset is None:
            raise ValueError("give a `dataset`, or `stages` with their datasets")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either `steps` or `epochs`")
        for number, stage in enumerate(self.filled_stages, start=1):
            which = f"stage {number}: " if self.stages is not None else ""
            if stage.dataset is None:
                raise ValueError(f"{which}give a `dataset`")
            if stage.steps is None and stage.epochs is None:
                raise ValueError(f"{which}give either `steps` or `epochs`")
        if self.memory_budget is not None and self.stored_layers:
            raise ValueError(
                "give either `memory_budget` or `stored_layers`: with a budget, the device chooses"
                " how many layers it stores"
            )
        return self

    @property
    def filled_stages(self) -> tuple[Stage, ...]:
        """At least one; each with what it leaves out taken from the recipe."""
        own = self.stages if self.stages is not None else (Stage(),)
        return tuple(self._filled(stage) for stage in own)

    def _filled(self, stage: Stage) -> Stage:
        defaults = {name: getattr(self, name) for name in Stage.model_fields}
        if stage.steps is not None or stage.epochs is not None:
            # The other one of the recipe is not meant then.
            defaults["steps"] = defaults["epochs"] = None
        own = {name: value for name, value in stage if value is not None}
        return stage.model_copy(update={**defaults, **own})

    def _to_stage(self, stage: Stage, data: StageData, usual_rate: float) -> job_pb2.TrainStage:
        rate, schedule, warmup = stage.learning_rate, stage.schedule, stage.warmup
        assert schedule is not None
        assert warmup is not None
        assert stage.dataset is not None
        return job_pb2.TrainStage(
            dataset_digest=data.digest,
            # As people wrote it, without the folders in front.
            dataset_name=Path(stage.dataset).name,
            steps=self._steps_of(stage, data.samples),
            learning_rate=usual_rate if rate is None else rate,
            schedule=SCHEDULES[schedule],
            warmup_fraction=warmup,
        )

    def _steps_of(self, stage: Stage, samples: int) -> int:
        """Optimizer steps: given, or so many that each sample that is not held out is seen
        ``epochs`` times."""
        if stage.steps is not None:
            return stage.steps
        assert stage.epochs is not None
        held_out = held_out_samples(samples, self.evaluation.held_out) if self.evaluation else 0
        trained = samples - held_out
        return min(_UINT32_MAX, max(1, math.ceil(trained * stage.epochs / self.accumulation)))


class JobFile(Strict):
    """A job, which either trains or generates; ``load_job_file`` reads it, and ``beside`` says from
    where relative paths count."""

    name: Annotated[str, AfterValidator(_name)]
    device: str = ""
    selector: Annotated[str, AfterValidator(_selector)] = ""
    on_lost: Literal["wait", "move"] = "wait"
    lost_after_minutes: Annotated[Real, Field(ge=0.05, le=43_200)] | None = None
    train: Train | None = None
    generate: Generate | None = None
    limits: Limits | None = None
    _folder: Path = PrivateAttr(default_factory=Path)

    @model_validator(mode="after")
    def _one_target(self) -> "JobFile":
        if self.device and self.selector:
            raise ValueError("give either `device` or `selector`")
        if (self.train is None) == (self.generate is None):
            raise ValueError("give either `train` or `generate`: what the job does")
        return self

    @model_validator(mode="after")
    def _may_move(self) -> "JobFile":
        if self.on_lost == "move" and self.device:
            raise ValueError("`on_lost: move` needs other devices: give a `selector`, or neither")
        if self.on_lost == "wait" and self.lost_after_minutes is not None:
            raise ValueError("`lost_after_minutes` is for `on_lost: move`")
        return self

    @property
    def lease_s(self) -> int:
        """0: the job belongs to its device."""
        if self.on_lost == "wait":
            return 0
        minutes = self.lost_after_minutes or LOST_AFTER_MINUTES
        return max(1, round(minutes * 60))

    def around(
        self,
        train: job_pb2.TrainSpec | None = None,
        generate: job_pb2.GenerateSpec | None = None,
    ) -> job_pb2.JobSpec:
        """The spec of this job with the work, which is one of both."""
        limits = self.limits.to_proto() if self.limits and self.limits != Limits() else None
        return job_pb2.JobSpec(
            name=self.name, lease_s=self.lease_s, limits=limits, train=train, generate=generate
        )

    def beside(self, folder: Path) -> "JobFile":
        """The same job, with relative paths counted from ``folder``."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    @property
    def datasets(self) -> tuple[str, ...]:
        """As they are written in the file; those of stages in their order."""
        if self.generate is not None:
            return (self.generate.dataset,)
        assert self.train is not None
        return tuple(stage.dataset or "" for stage in self.train.filled_stages)

    def path_of(self, dataset: str) -> Path:
        """Where the dataset is if what is written is a path."""
        return self._folder / Path(dataset).expanduser()

    def to_spec(
        self, *, base_digest: str, data: Sequence[StageData], instruct: bool
    ) -> job_pb2.JobSpec:
        """The spec of a training with every field set. ``data`` is of the stages, in their order;
        the samples turn epochs into steps. (Of a generation: Generate.to_spec.)"""
        train = self.train
        assert train is not None
        usual = INSTRUCT_LEARNING_RATE if instruct else BASE_LEARNING_RATE
        lora = job_pb2.LoraSpec(
            rank=train.rank,
            alpha=train.alpha,
            targets=train.targets,
            dropout=train.dropout,
            rank_stabilized=train.rslora,
        )
        stages = [
            train._to_stage(stage, found, usual)
            for stage, found in zip(train.filled_stages, data, strict=True)
        ]
        evaluation = train.evaluation.to_proto() if train.evaluation else None
        return self.around(
            train=job_pb2.TrainSpec(
                base_digest=base_digest,
                lora=lora,
                sequence_length=train.sequence_length,
                accumulation=train.accumulation,
                gradient_clip=train.gradient_clip,
                weight_decay=train.weight_decay,
                seed=train.seed,
                checkpoint_period_s=max(1, round(train.checkpoint_minutes * 60)),
                threads=train.threads,
                stored_layers=train.stored_layers,
                stages=stages,
                evaluation=evaluation,
                packing=train.packing,
                memory_budget_bytes=train.memory_budget or 0,
                holds_memory=train.holds_memory,
            ),
        )


def load_job_file(path: Path) -> JobFile:
    """Raises InvalidRequest that lists every mistake with its line."""
    return _checked(yaml_lines.read(path)).beside(path.parent)


def parse_job(values: Mapping[str, object], name: str = "job") -> JobFile:
    """The same from values that are no file's; ``name`` stands for the file in messages."""
    return _checked(Document(name, values, {}))


def _checked(document: Document) -> JobFile:
    try:
        return JobFile.model_validate(document.values)
    except ValidationError as error:
        problems = [_problem(document, detail) for detail in error.errors()]
        raise InvalidRequest(
            "\n".join(text for text, _ in problems),
            fix="Correct the job file and submit it again.",
            reason="INVALID_JOB_FILE",
            field=problems[0][1],
        ) from error


def _problem(document: Document, detail: ErrorDetails) -> tuple[str, str]:
    """One mistake for people, and the field's name."""
    key = _key(detail["loc"])
    place, field = document.place(key), _written(key)
    if detail["type"] == "extra_forbidden":
        return f"{place}: {_unknown(key, field)}", field
    if detail["type"] == "missing":
        return f"{place}: `{field}` is missing.", field
    said = detail["msg"].removeprefix("Value error, ").rstrip(".")
    said = said[:1].lower() + said[1:]
    if isinstance(detail["input"], (BaseModel, dict)):
        return f"{place}: {said}.", field
    return f"{place}: `{field}` is {reprlib.repr(detail['input'])}: {said}.", field


def _key(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The path of a key in the file; below it are pydantic's own names of choices."""
    key = tuple(str(part) for part in location)
    if key[:2] in (("train", "stages"), ("generate", "messages")):
        return key[:4]
    if key[:2] == ("train", "evaluation"):
        return key[:3]
    return key[: 2 if key[0] in ("train", "generate", "limits") else 1] if key else ()


def _written(key: tuple[str, ...]) -> str:
    """``train.stages[0].steps``"""
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(key))


def _unknown(key: tuple[str, ...], field: str) -> str:
    name = key[-1]
    if len(key) > 1 and (why := peft_options.WHY.get(name)):
        return f"`{field}`: this option of PEFT is not offered: {why}"
    return f"unknown key `{field}`{_did_you_mean(key)}"


_BELOW: dict[str, type[Strict]] = {
    "at the top": JobFile,
    "below `train`": Train,
    "below `train.stages`": Stage,
    "below `train.evaluation`": Evaluation,
    "below `generate`": Generate,
    "below `limits`": Limits,
}


def _did_you_mean(key: tuple[str, ...]) -> str:
    name, here = key[-1], _model_at(key[:-1])
    if near := difflib.get_close_matches(name, here.model_fields, n=1, cutoff=0.8):
        return f", did you mean `{near[0]}`?"
    for place, model in _BELOW.items():
        if model is not here and name in model.model_fields:
            return f": it belongs {place}."
    if near := difflib.get_close_matches(name, here.model_fields, n=1):
        return f", did you mean `{near[0]}`?"
    return f"; known are {', '.join(sorted(here.model_fields))}."


def _model_at(above: tuple[str, ...]) -> type[Strict]:
    if not above:
        return JobFile
    inner: dict[tuple[str, ...], type[Strict]] = {
        ("train", "stages"): Stage,
        ("train", "evaluation"): Evaluation,
        ("generate", "messages"): TemplateMessage,
        ("generate",): Generate,
        ("limits",): Limits,
    }
    return inner.get(above[:2], Train)
