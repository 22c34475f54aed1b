"""Every job file that ships loads, opens with its command, and has its dataset beside it."""

import re
from pathlib import Path

import pytest

from artifacts import dataset
from controller.jobfile import Evaluation, JobFile, Train, load_job_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/finetune.yaml"
STAGES = ROOT / "docs/examples/stages.yaml"
SHIPPED = sorted(
    path
    for folder in ("controller", "docs")
    for path in (ROOT / folder).rglob("*.yaml")
    if "train:" in path.read_text()
)


def test_the_example_is_among_them() -> None:
    assert {EXAMPLE, STAGES, ROOT / "controller/demo/persona.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_it_loads_and_says_how_it_is_used(path: Path) -> None:
    job = load_job_file(path)
    for name in job.datasets:
        assert dataset.check(job.path_of(name)).warnings == ()
    command, _, file = path.read_text().splitlines()[0].rpartition(" ")
    assert command == "# nanofleet job submit"
    assert str(path).endswith(f"/{file}")


def test_the_example_explains_every_key_on_its_line() -> None:
    text = EXAMPLE.read_text() + STAGES.read_text()
    explained = set(re.findall(r"^ *(\w+): .*#", text, re.MULTILINE)) | {"train"}
    other = set(re.findall(r"or   (\w+): ", text))
    models = (JobFile, Train, Evaluation)
    assert explained | other == {name for model in models for name in model.model_fields}


def test_the_example_has_the_defaults() -> None:
    job = load_job_file(EXAMPLE).train
    plain = Train(base=job.base, dataset=job.dataset, epochs=job.epochs, learning_rate=2e-5)
    assert job == plain
