"""Every job file that ships loads, opens with its command, and has its dataset beside it."""

import re
from pathlib import Path

import pytest

from artifacts import dataset
from controller.jobfile import JobFile, Train, load_job_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/finetune.yaml"
SHIPPED = sorted(
    path
    for folder in ("controller", "docs")
    for path in (ROOT / folder).rglob("*.yaml")
    if "train:" in path.read_text()
)


def test_the_example_is_among_them() -> None:
    assert {EXAMPLE, ROOT / "controller/demo/persona.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_it_loads_and_says_how_it_is_used(path: Path) -> None:
    job = load_job_file(path)
    assert dataset.check(job.dataset_path).warnings == ()
    command, _, file = path.read_text().splitlines()[0].rpartition(" ")
    assert command == "# nanofleet job submit"
    assert str(path).endswith(f"/{file}")


def test_the_example_explains_every_key_on_its_line() -> None:
    text = EXAMPLE.read_text()
    explained = set(re.findall(r"^ *(\w+): .*#", text, re.MULTILINE)) | {"train"}
    other = set(re.findall(r"or   (\w+): ", text))
    assert explained | other == set(JobFile.model_fields) | set(Train.model_fields)


def test_the_example_has_the_defaults() -> None:
    job = load_job_file(EXAMPLE).train
    plain = Train(base=job.base, dataset=job.dataset, epochs=job.epochs, learning_rate=2e-5)
    assert job == plain
