"""Every job file that ships loads, opens with its command, and has its dataset beside it."""

import re
from pathlib import Path

import pytest

from artifacts import dataset, prompts
from controller.generate_section import Generate
from controller.jobfile import Evaluation, JobFile, Train, load_job_file
from controller.limits_section import Limits

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/finetune.yaml"
STAGES = ROOT / "docs/examples/stages.yaml"
TEACH = ROOT / "docs/examples/teach.yaml"
STUDENT = ROOT / "docs/examples/student.yaml"
SHIPPED = sorted(
    path
    for folder in ("controller", "docs")
    for path in (ROOT / folder).rglob("*.yaml")
    if re.search("^(train|generate):", path.read_text(), re.MULTILINE)
)


def test_the_example_is_among_them() -> None:
    assert {EXAMPLE, STAGES, TEACH, STUDENT, ROOT / "controller/demo/persona.yaml"} <= set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_it_loads_and_says_how_it_is_used(path: Path) -> None:
    job = load_job_file(path)
    for name in job.datasets:
        if job.generate is not None:
            assert prompts.check(job.path_of(name)).prompts > 0
        elif name != "job/teach":
            assert dataset.check(job.path_of(name)).warnings == ()
    command, _, file = path.read_text().splitlines()[0].rpartition(" ")
    assert command == "# nanofleet job submit"
    assert str(path).endswith(f"/{file}")


def test_the_example_explains_every_key_on_its_line() -> None:
    text = EXAMPLE.read_text() + STAGES.read_text() + TEACH.read_text()
    explained = set(re.findall(r"^ *(\w+): .*#", text, re.MULTILINE)) | {
        "train",
        "generate",
        "limits",
    }
    other = set(re.findall(r"or   (\w+): ", text)) - {"role"}
    models = (JobFile, Limits, Train, Evaluation, Generate)
    assert explained | other == {name for model in models for name in model.model_fields}


def test_the_example_has_the_defaults() -> None:
    file = load_job_file(EXAMPLE)
    job = file.train
    assert job is not None
    assert file.limits == Limits()
    plain = Train(base=job.base, dataset=job.dataset, epochs=job.epochs, learning_rate=2e-5)
    assert job == plain


def test_the_example_of_a_generation_has_the_defaults() -> None:
    asked = load_job_file(TEACH).generate
    assert asked is not None
    chosen = {"base", "dataset", "template", "system", "output_prompt"}
    # Written out, though they follow from the base.
    derived = {"chat": True, "output": "chat", "context_length": 2048}
    plain = Generate(**{name: getattr(asked, name) for name in chosen}, **derived)
    assert asked == plain
