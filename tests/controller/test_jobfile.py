"""Job files: every mistake is found, with its line, and what was probably meant."""

from pathlib import Path

import pytest

from controller.jobfile import ALL, ATTENTION, JobFile, load_job_file, parse_job
from controller.records import StageData
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1 import job_pb2

EXAMPLE = """\
# nanofleet job submit finetune.yaml
name: persona
device: kitchen
train:
  base: gemma-3-1b-it
  dataset: persona.jsonl
  steps: 120
  rank: 8
  alpha: 16
  targets: all
  dropout: 0
  sequence_length: 256
  accumulation: 8
  learning_rate: 2e-5
  schedule: cosine
  warmup: 10%
  gradient_clip: 0.3
  weight_decay: 0
  seed: 0
  checkpoint_minutes: 5
  stored_layers: 0
"""


def load(folder: Path, text: str) -> JobFile:
    path = folder / "finetune.yaml"
    path.write_text(text)
    return load_job_file(path)


def spec(job: JobFile, samples: int = 10, instruct: bool = True) -> job_pb2.TrainSpec:
    return job.to_spec(
        base_digest="sha256:b", data=[StageData("sha256:d", samples)], instruct=instruct
    ).train


def test_the_example_sets_every_field(tmp_path: Path) -> None:
    job = load(tmp_path, EXAMPLE)
    assert job.path_of(*job.datasets) == tmp_path / "persona.jsonl"
    assert spec(job) == job_pb2.TrainSpec(
        base_digest="sha256:b",
        lora=job_pb2.LoraSpec(rank=8, alpha=16, targets=ALL, dropout=0),
        sequence_length=256,
        accumulation=8,
        stages=[
            job_pb2.TrainStage(
                dataset_digest="sha256:d",
                dataset_name="persona.jsonl",
                steps=120,
                learning_rate=2e-5,
                schedule=job_pb2.SCHEDULE_COSINE,
                warmup_fraction=0.1,
            )
        ],
        gradient_clip=0.3,
        weight_decay=0,
        seed=0,
        checkpoint_period_s=300,
        threads=0,
        stored_layers=0,
        packing=True,
    )


def test_the_defaults_are_the_example(tmp_path: Path) -> None:
    short = "name: persona\ntrain: {base: b, dataset: d, steps: 120}\n"
    long = load(tmp_path, EXAMPLE)
    found = spec(load(tmp_path, short))
    assert found.stages[0].dataset_name == "d"
    found.stages[0].dataset_name = "persona.jsonl"
    assert found == spec(long)
    made = long.to_spec(base_digest="", data=[StageData("", 1)], instruct=True)
    assert made.name == "persona"


def test_a_model_that_only_continues_text_learns_faster(tmp_path: Path) -> None:
    job = load(tmp_path, "name: persona\ntrain: {base: b, dataset: d, steps: 1}\n")
    assert spec(job, instruct=False).stages[0].learning_rate == 2e-4


@pytest.mark.parametrize(
    ("samples", "epochs", "accumulation", "steps"),
    [(6, "2", 2, 6), (10, "1", 8, 2), (3, "0.5", 8, 1), (100, "3", 8, 38), (8, "1e1", 8, 10)],
)
def test_epochs_become_steps(
    tmp_path: Path, samples: int, epochs: str, accumulation: int, steps: int
) -> None:
    text = EXAMPLE.replace("steps: 120", f"epochs: {epochs}").replace(
        "accumulation: 8", f"accumulation: {accumulation}"
    )
    assert spec(load(tmp_path, text), samples).stages[0].steps == steps


@pytest.mark.parametrize(
    ("written", "learning_rate"),
    [("2e-5", 2e-5), ("2.0e-5", 2e-5), ("0.00002", 2e-5), ('"2e-5"', 2e-5), ("1", 1.0)],
)
def test_numbers_as_people_write_them(tmp_path: Path, written: str, learning_rate: float) -> None:
    job = load(tmp_path, EXAMPLE.replace("2e-5", written))
    assert spec(job).stages[0].learning_rate == learning_rate


@pytest.mark.parametrize(
    ("written", "share"), [("10%", 0.1), ("0.1", 0.1), ("0", 0), ("2.5 %", 0.025)]
)
def test_warmup_as_a_share(tmp_path: Path, written: str, share: float) -> None:
    assert spec(load(tmp_path, EXAMPLE.replace("10%", written))).stages[0].warmup_fraction == share


@pytest.mark.parametrize(
    ("written", "targets"),
    [("all", ALL), ("attention", ATTENTION), ("q_proj", ("q_proj",)),
     ("[v_proj, q_proj]", ("v_proj", "q_proj"))],
)  # fmt: skip
def test_targets(tmp_path: Path, written: str, targets: tuple[str, ...]) -> None:
    job = load(tmp_path, EXAMPLE.replace("targets: all", f"targets: {written}"))
    assert tuple(spec(job).lora.targets) == targets


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("learning_rate", "learning_rat", "finetune.yaml:14: unknown key `train.learning_rat`, "
         "did you mean `learning_rate`?"),
        ("name: persona", "name: persona\nrank: 8", "finetune.yaml:3: unknown key `rank`: "
         "it belongs below `train`."),
        ("  rank: 8", "  device: x", "finetune.yaml:8: unknown key `train.device`: "
         "it belongs at the top."),
        ("  base: gemma-3-1b-it\n", "", "finetune.yaml:4: `train.base` is missing."),
        ("steps: 120", "steps: 0", "finetune.yaml:7: `train.steps` is 0: "),
        ("steps: 120", "epochs: 3\n  steps: 4", "finetune.yaml:4: give either `steps` or `epochs`"),
        ("steps: 120", "seed: 1", "finetune.yaml:19 repeats `seed`, which stands in line 7."),
        ("rank: 8", "rank: 8.5", "finetune.yaml:8: `train.rank` is 8.5: "),
        ("rank: 8", "rank: yes", "finetune.yaml:8: `train.rank` is True: "),
        ("rank: 8", "rank: '8'", "finetune.yaml:8: `train.rank` is '8': "),
        ("2e-5", "fast", "finetune.yaml:14: `train.learning_rate` is 'fast': "),
        ("2e-5", "nan", "finetune.yaml:14: `train.learning_rate` is 'nan': "),
        ("10%", "110%", "finetune.yaml:16: `train.warmup` is '110%': "),
        ("targets: all", "targets: [q_proj, k]", "finetune.yaml:10: `train.targets` is 'k': "),
        ("targets: all", "targets: []", "finetune.yaml:10: `train.targets` is "),
        ("cosine", "cos", "finetune.yaml:15: `train.schedule` is 'cos': "),
        ("name: persona", "name: Persona X", "finetune.yaml:2: `name` is 'Persona X': "),
        ("device: kitchen", "device: kitchen\nselector: a=b", "give either `device` or `selector`"),
        ("device: kitchen", "selector: '=='", "finetune.yaml:3: `selector` is '==': "),
        ("name: persona", "name: [", " is not YAML: "),
        ("name: persona", "name: &a persona\nx: *a", "has an alias, `*a`"),
        ("name: persona", "1: persona", "finetune.yaml:2 has a key that is no plain word."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, EXAMPLE.replace(right, wrong, 1))
    assert said in caught.value.what
    assert caught.value.reason == "INVALID_JOB_FILE"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = EXAMPLE.replace("rank: 8", "rank: 0").replace("2e-5", "fast")
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, text)
    assert len(caught.value.what.splitlines()) == 2


STAGES = """\
name: persona
train:
  base: b
  steps: 9
  learning_rate: 2e-5
  stages:
    - dataset: texts/raw.jsonl
      epochs: 2
      learning_rate: 1e-4
      schedule: constant
    - dataset: persona.jsonl
      warmup: 0
  evaluation:
    held_out: 10%
    every: 5
    patience: 3
"""


def test_a_stage_takes_what_it_leaves_out_from_above(tmp_path: Path) -> None:
    job = load(tmp_path, STAGES)
    assert job.datasets == ("texts/raw.jsonl", "persona.jsonl")
    data = [StageData("sha256:r", 100), StageData("sha256:p", 30)]
    train = job.to_spec(base_digest="sha256:b", data=data, instruct=True).train
    raw, persona = train.stages
    assert (raw.dataset_digest, raw.dataset_name) == ("sha256:r", "raw.jsonl")
    # Of 100 samples, 10 are held out: 180 samples in steps of 8.
    assert (raw.steps, raw.learning_rate, raw.warmup_fraction) == (23, 1e-4, 0.1)
    assert raw.schedule == job_pb2.SCHEDULE_CONSTANT
    assert (persona.steps, persona.learning_rate, persona.warmup_fraction) == (9, 2e-5, 0)
    assert persona.schedule == job_pb2.SCHEDULE_COSINE
    assert train.evaluation == job_pb2.Evaluation(held_out_fraction=0.1, period_steps=5, patience=3)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("schedule: constant", "shedule: constant",
         "finetune.yaml:10: unknown key `train.stages[0].shedule`, did you mean `schedule`?"),
        ("schedule: constant", "rank: 4",
         "finetune.yaml:10: unknown key `train.stages[0].rank`: it belongs below `train`."),
        ("warmup: 0", "warmup: 2", "finetune.yaml:12: `train.stages[1].warmup` is 2: "),
        ("warmup: 0", "steps: 1\n      epochs: 1",
         "finetune.yaml:11: give either `steps` or `epochs`"),
        ("  steps: 9\n", "", "stage 2: give either `steps` or `epochs`"),
        ("dataset: persona.jsonl", "steps: 4", "stage 2: give a `dataset`"),
        ("every: 5", "evry: 5", "finetune.yaml:15: unknown key `train.evaluation.evry`, "
         "did you mean `every`?"),
        ("held_out: 10%", "held_out: 60%",
         "finetune.yaml:14: `train.evaluation.held_out` is '60%': "),
        ("held_out: 10%", "held_out: 0", "finetune.yaml:14: `train.evaluation.held_out` is 0: "),
        ("  steps: 9\n", "  steps: 9\n  use_dora: true\n", "finetune.yaml:5: `train.use_dora`: "
         "this option of PEFT is not offered: adapters are plain LoRA"),
        ("  steps: 9\n", "  steps: 9\n  lora_alpha: 4\n", "it is called `alpha` here."),
        ("  steps: 9\n", "  steps: 9\n  memory_budget: 1.5\n",
         "finetune.yaml:5: `train.memory_budget` is 1.5: a size is written with its unit"),
        ("  steps: 9\n", "  steps: 9\n  memory_budget: 2 GB\n  stored_layers: 3\n",
         "give either `memory_budget` or `stored_layers`"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_stage_is_named_with_its_line(
    tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    assert right in STAGES
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, STAGES.replace(right, wrong, 1))
    assert said in caught.value.what


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [("1.5 GB", 1_500_000_000), ("900MB", 900_000_000), ("2 GiB", 2 << 30)],
)
def test_sizes_as_people_write_them(tmp_path: Path, written: str, size_bytes: int) -> None:
    job = load(tmp_path, EXAMPLE.replace("stored_layers: 0", f"memory_budget: {written}"))
    assert spec(job).memory_budget_bytes == size_bytes


def test_what_is_told_of_the_recipe_reaches_the_spec(tmp_path: Path) -> None:
    found = spec(load(tmp_path, EXAMPLE + "  packing: false\n  rslora: true\n"))
    assert not found.packing
    assert found.lora.rank_stabilized


@pytest.mark.parametrize("text", ["", "- a\n", "[" * 5000, "name: \x00", "'"])
def test_what_is_no_job_file_at_all(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest):
        load(tmp_path, text)


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_job_file(tmp_path / "no.yaml")
    with pytest.raises(InvalidRequest):
        load_job_file(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        load_job_file(tmp_path / "bytes.yaml")


def test_values_that_are_no_file() -> None:
    train = {"base": "b", "dataset": "d", "steps": 3, "learning_rate": 5e-3}
    assert spec(parse_job({"name": "persona", "train": train})).stages[0].steps == 3
    with pytest.raises(InvalidRequest, match="job: unknown key `nam`, did you mean `name`"):
        parse_job({"nam": "persona", "train": train})


def test_limits_are_of_any_job() -> None:
    limits = {"hours": "22:00-06:00", "pause_above_c": 85}
    base = {"name": "nights", "limits": limits}
    made = parse_job({**base, "train": {"base": "b", "dataset": "d", "steps": 3}}).around()
    expected = job_pb2.OperatingLimits(
        pause_above_c=85, resume_below_c=75, hours=["22:00-06:00"], rest_s=30
    )
    assert made.limits == expected
    answering = parse_job({**base, "generate": {"base": "b", "dataset": "d"}})
    assert answering.around(generate=job_pb2.GenerateSpec()).limits == expected
    assert not load_plain().around().HasField("limits")


def load_plain() -> JobFile:
    return parse_job({"name": "x", "train": {"base": "b", "dataset": "d", "steps": 3}})


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("  hour: 22:00-06:00", ":2: unknown key `limits.hour`, did you mean `hours`?"),
        ("  hours: night", "`limits.hours` has 'night'; write a span as \"22:00-06:00\"."),
        ("  hours: [24:00-06:00]", "`limits.hours` has '24:00-06:00', which is no part of a day"),
        ("  pause_above_c: 85\n  resume_below_c: 90", "`limits.resume_below_c` is 90; it must be"),
        ("  resume_below_c: 90", "`limits.resume_below_c` is given without pause_above_c"),
        ("  pause_above_c: 800", "`limits.pause_above_c` is 800; it lies between 20 and 150"),
        ("  rest_s: 0", "`limits.rest_s` is 0; it lies between 1 and 86400."),
        ("  mains_only: 3", "`limits.mains_only` is 3: input should be a valid boolean."),
    ],
)
def test_limits_that_make_no_sense(limits: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(tmp_path, f"limits:\n{limits}\n{EXAMPLE}")
    assert said in caught.value.what


def test_a_limit_in_the_wrong_place_is_pointed_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="belongs below `limits`"):
        load(tmp_path, EXAMPLE + "  mains_only: true\n")
