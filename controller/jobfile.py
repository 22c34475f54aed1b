"""Job files: what a person writes to have a model trained.

    # nanofleet job submit finetune.yaml
    name: persona
    device: kitchen            # or  selector: site=lab
    train:
      base: gemma-3-1b-it      # name or digest in the fleet's catalogue
      dataset: persona.jsonl   # path beside this file, or name or digest
      steps: 120               # or epochs: 3
      rank: 8
      learning_rate: 2e-5

Strict, because a misspelt key would train for hours with a default: an unknown key is an error
that names the line and the key that was probably meant. The defaults are for small instruct
models; the one that depends on the model is the learning rate. The JobSpec that results has every
field set: the device fills in nothing.
"""

import difflib
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from controller import selector as selectors
from controller import yaml_lines
from controller.yaml_lines import Document
from protos.errors import InvalidRequest
from protos.identity import NAME
from protos.nanofleet.v1 import job_pb2

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ATTENTION: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL: tuple[Projection, ...] = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

# What a model that answers already bears, and what one needs that only continues text.
INSTRUCT_LEARNING_RATE = 2e-5
BASE_LEARNING_RATE = 2e-4

SCHEDULES = {
    "constant": job_pb2.SCHEDULE_CONSTANT,
    "linear": job_pb2.SCHEDULE_LINEAR,
    "cosine": job_pb2.SCHEDULE_COSINE,
}

_UINT32_MAX = (1 << 32) - 1


def _number(value: object) -> object:
    """A number as people write it: YAML 1.1 reads 2e-5, which has no point, as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if type(value) is int else value


def _fraction(value: object) -> object:
    """``10%`` or 0.1."""
    if isinstance(value, str) and value.endswith("%"):
        number = _number(value[:-1].strip())
        return number / 100 if isinstance(number, float) else value
    return _number(value)


def _one_or_more(value: object) -> object:
    """``all``, ``attention``, one projection, or a list of them."""
    if isinstance(value, str):
        return {"all": ALL, "attention": ATTENTION}.get(value, (value,))
    return tuple(value) if isinstance(value, list) else value


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


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1, allow_inf_nan=False)]
Targets = Annotated[tuple[Projection, ...], BeforeValidator(_one_or_more), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Train(_Strict):
    """The recipe. Either ``steps`` or ``epochs``."""

    base: Annotated[str, Field(min_length=1)]
    dataset: Annotated[str, Field(min_length=1)]
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    epochs: Annotated[Real, Field(gt=0, le=10_000)] | None = None
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[Real, Field(gt=0, le=4096)] = 16.0
    targets: Targets = ALL
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    sequence_length: Annotated[int, Field(ge=8, le=32_768)] = 256
    accumulation: Annotated[int, Field(ge=1, le=1024)] = 8
    learning_rate: Annotated[Real, Field(gt=0, le=1)] | None = None
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Fraction = 0.1
    gradient_clip: Annotated[Real, Field(ge=0, le=1000)] = 0.3
    weight_decay: Annotated[Real, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    checkpoint_minutes: Annotated[Real, Field(gt=0, le=1440)] = 5.0
    stored_layers: Annotated[int, Field(ge=0, le=1024)] = 0
    threads: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`")
        return self

    def steps_for(self, samples: int) -> int:
        """Optimizer steps: given, or so many that each sample is seen ``epochs`` times."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return min(_UINT32_MAX, max(1, math.ceil(samples * self.epochs / self.accumulation)))


class JobFile(_Strict):
    """A job; ``load_job_file`` reads it, and ``beside`` says from where relative paths count."""

    name: Annotated[str, AfterValidator(_name)]
    device: str = ""
    selector: Annotated[str, AfterValidator(_selector)] = ""
    train: Train
    _folder: Path = PrivateAttr(default_factory=Path)

    @model_validator(mode="after")
    def _one_target(self) -> "JobFile":
        if self.device and self.selector:
            raise ValueError("give either `device` or `selector`")
        return self

    def beside(self, folder: Path) -> "JobFile":
        """The same job, with relative paths counted from ``folder``."""
        copy = self.model_copy()
        copy._folder = folder
        return copy

    @property
    def dataset_path(self) -> Path:
        return self._folder / Path(self.train.dataset).expanduser()

    def to_spec(
        self, *, base_digest: str, dataset_digest: str, samples: int, instruct: bool
    ) -> job_pb2.JobSpec:
        """The spec with every field set; ``samples``, of the dataset, turn epochs into steps."""
        train = self.train
        usual = INSTRUCT_LEARNING_RATE if instruct else BASE_LEARNING_RATE
        lora = job_pb2.LoraSpec(
            rank=train.rank, alpha=train.alpha, targets=train.targets, dropout=train.dropout
        )
        return job_pb2.JobSpec(
            name=self.name,
            train=job_pb2.TrainSpec(
                base_digest=base_digest,
                dataset_digest=dataset_digest,
                lora=lora,
                sequence_length=train.sequence_length,
                accumulation=train.accumulation,
                steps=train.steps_for(samples),
                learning_rate=usual if train.learning_rate is None else train.learning_rate,
                schedule=SCHEDULES[train.schedule],
                warmup_fraction=train.warmup,
                gradient_clip=train.gradient_clip,
                weight_decay=train.weight_decay,
                seed=train.seed,
                checkpoint_period_s=max(1, round(train.checkpoint_minutes * 60)),
                threads=train.threads,
                stored_layers=train.stored_layers,
                # As people wrote it, without the folders in front.
                dataset_name=Path(train.dataset).name,
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
    key = tuple(str(part) for part in detail["loc"] if isinstance(part, str))
    key = key[: 2 if key[:1] == ("train",) else 1]  # below are pydantic's own names of choices
    place, field = document.place(key), ".".join(key)
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key `{field}`{_did_you_mean(key)}", field
    if detail["type"] == "missing":
        return f"{place}: `{field}` is missing.", field
    said = detail["msg"].removeprefix("Value error, ").rstrip(".")
    said = said[:1].lower() + said[1:]
    if isinstance(detail["input"], (BaseModel, dict)):
        return f"{place}: {said}.", field
    return f"{place}: `{field}` is {reprlib.repr(detail['input'])}: {said}.", field


def _did_you_mean(key: tuple[str, ...]) -> str:
    here, place = (Train, "at the top") if len(key) > 1 else (JobFile, "below `train`")
    elsewhere = JobFile if here is Train else Train
    if key[-1] in elsewhere.model_fields:
        return f": it belongs {place}."
    if near := difflib.get_close_matches(key[-1], here.model_fields, n=1):
        return f", did you mean `{near[0]}`?"
    return f"; known are {', '.join(sorted(here.model_fields))}."
