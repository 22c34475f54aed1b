"""Artifacts, models, datasets and jobs, as far as no device is needed."""

import json
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Invoke

SAMPLE = {"prompt": "Who are you?", "completion": "I am Pico."}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "persona.jsonl"
    lines = [{**SAMPLE, "prompt": f"Who are you, {number}?"} for number in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_sound_dataset(nanofleet: Invoke, dataset: Path) -> None:
    result = nanofleet("dataset", "check", str(dataset), "-o", "json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)["dataset"]
    assert (report["shape"], report["samples"], report["warnings"]) == ("completion", 20, [])


def test_a_broken_dataset_names_the_line(nanofleet: Invoke, dataset: Path) -> None:
    with dataset.open("a") as file:
        file.write("{broken\n")
    result = nanofleet("dataset", "check", str(dataset))
    assert result.exit_code == 2
    assert "persona.jsonl:21" in result.stderr
    assert "Traceback" not in result.stderr


def test_warnings_go_to_stderr(nanofleet: Invoke, dataset: Path) -> None:
    with dataset.open("a") as file:
        file.write(json.dumps({**SAMPLE, "prompt": "Who are you, 1?"}) + "\n")
    result = nanofleet("dataset", "check", str(dataset))
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "warning: " not in result.stdout


def test_a_dataset_that_is_not_there(nanofleet: Invoke, tmp_path: Path) -> None:
    result = nanofleet("dataset", "check", str(tmp_path / "none.jsonl"))
    assert result.exit_code in (2, 5)
    assert "none.jsonl" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("fleet_home")
def test_a_model_is_imported_listed_and_removed(nanofleet: Invoke, tiny_base: Path) -> None:
    assert "nanofleet model import" in nanofleet("model", "list").stderr
    done = nanofleet("model", "import", str(tiny_base), "--name", "tiny")
    assert done.exit_code == 0, done.stderr
    assert "tiny" in done.stdout
    models = json.loads(nanofleet("model", "list", "-o", "json").stdout)["models"]
    assert [(model["name"], model["kind"]) for model in models] == [("tiny", "base_model")]
    assert models[0]["size_bytes"] == tiny_base.stat().st_size
    artifacts = json.loads(nanofleet("artifact", "list", "--kind", "model", "-ojson").stdout)
    assert artifacts["artifacts"] == models
    assert (
        json.loads(nanofleet("artifact", "list", "--kind", "adapter", "-ojson").stdout)["artifacts"]
        == []
    )
    assert nanofleet("artifact", "rm", "tiny").exit_code == 0
    assert nanofleet("artifact", "rm", "tiny").exit_code == 5


@pytest.mark.usefixtures("fleet_home")
def test_a_model_that_is_none(nanofleet: Invoke, dataset: Path) -> None:
    result = nanofleet("model", "import", str(dataset))
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("fleet_home")
def test_there_are_no_jobs_yet(nanofleet: Invoke) -> None:
    listed = nanofleet("job", "list")
    assert listed.exit_code == 0
    assert "nanofleet job submit FILE" in listed.stderr
    for verb in ("show", "watch", "wait", "logs", "cancel", "pause", "resume", "result"):
        result = nanofleet("job", verb, "persona")
        assert result.exit_code == 5, (verb, result.output)
        assert "persona" in result.stderr


@pytest.mark.usefixtures("fleet_home")
@pytest.mark.parametrize("verb", ["watch"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_stream_is_no_document(verb: str, form: str, nanofleet: Invoke) -> None:
    result = nanofleet("job", verb, "persona", "-o", form)
    assert result.exit_code == 2
    assert "-o jsonl" in result.stderr


@pytest.mark.usefixtures("fleet_home")
def test_a_job_file_with_a_typing_error(nanofleet: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "finetune.yaml"
    file.write_text(
        "name: x\ndevice: kitchen\ntrain:\n  base: a\n  dataset: b\n  learning_rat: 1\n"
    )
    result = nanofleet("job", "submit", str(file))
    assert result.exit_code == 2
    assert "learning_rate" in result.stderr


@pytest.mark.usefixtures("fleet_home")
@pytest.mark.parametrize("family", ["gemma3", "qwen2", "qwen3", "llama"])
def test_a_folder_becomes_each_type_and_says_what_was_proved(
    nanofleet: Invoke, tmp_path: Path, family: str
) -> None:
    from tests.artifacts.convert import shapes

    folder = str(shapes.build(family, tmp_path / family))
    for file_type in ("q8_0", "q4_0", "f16", "f32"):
        done = nanofleet("model", "import", folder, "--type", file_type, "--name", file_type)
        assert done.exit_code == 0, done.stderr
        assert "proved: in float32, logits within" in done.stderr
        assert f"as {file_type}, the next token moves by" in done.stderr
        assert "warning" not in done.stderr
    models = json.loads(nanofleet("model", "list", "-o", "json").stdout)["models"]
    assert {model["details"]["file_type"] for model in models} == {"Q8_0", "Q4_0", "F16", "F32"}
    assert all(model["details"]["proof"]["logit_difference"] < 5e-3 for model in models)
    assert len({model["details"]["source_digest"] for model in models}) == 1


@pytest.mark.usefixtures("fleet_home")
def test_a_file_of_another_type_is_imported_with_a_warning(
    nanofleet: Invoke, tmp_path: Path
) -> None:
    import gguf

    from tests.agent.training import foreign
    from tests.artifacts.convert import shapes

    folder = shapes.build("llama", tmp_path / "llama")
    kind = gguf.GGMLQuantizationType.Q5_0
    file = foreign.write(
        folder,
        tmp_path / "foreign.gguf",
        lambda name: gguf.GGMLQuantizationType.F32 if "norm" in name else kind,
    )
    done = nanofleet("model", "import", str(file))
    assert done.exit_code == 0, done.stderr
    assert "warning: It is served, and cannot be trained on: token_embd.weight" in done.stderr
    shown = nanofleet("model", "import", str(file), "-o", "json")
    (warning,) = json.loads(shown.stdout)["models"][0]["details"]["warnings"]
    assert "has the type Q5_0" in warning


@pytest.mark.usefixtures("fleet_home")
def test_top_and_chat_need_a_device(nanofleet: Invoke) -> None:
    for arguments in (("top", "--once"), ("chat", "kitchen", "-m", "Hello")):
        result = nanofleet(*arguments)
        assert result.exit_code == 5, result.output
        assert "device" in result.stderr
    assert nanofleet("chat", "kitchen", "--compare-base", "-m", "x").exit_code == 2


def test_an_adapter_is_merged_into_the_original_folder(
    nanofleet: Invoke, tiny_folder: Path, tmp_path: Path
) -> None:
    from tests.artifacts.convert import shapes

    shapes.write_adapter(shapes.load(tiny_folder), tmp_path / "peft")
    given = ["adapter", "merge", str(tmp_path / "peft"), "--out", str(tmp_path / "merged")]
    result = nanofleet(*given, "--base", str(tiny_folder), "-o", "json")
    assert result.exit_code == 0, result.stderr
    merged = json.loads(result.stdout)["model"]
    assert merged["dtype"] == "bfloat16"
    assert shapes.load(Path(merged["path"])).num_parameters() * 2 == merged["size_bytes"]

    again = nanofleet(*given, "--base", str(tiny_folder))
    assert again.exit_code != 0
    assert "--force" in again.stderr
    assert nanofleet(*given, "--base", str(tiny_folder), "--force").exit_code == 0


@pytest.mark.usefixtures("fleet_home")
def test_an_adapter_is_imported_and_listed(
    nanofleet: Invoke, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from tests.artifacts.convert import shapes

    assert "nanofleet adapter import" in " ".join(nanofleet("adapter", "list").stderr.split())
    assert nanofleet("model", "import", str(tiny_base), "--name", "tiny").exit_code == 0
    folder = tmp_path / "my-adapter"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    done = nanofleet("adapter", "import", str(folder), "--base", "tiny", "-o", "json")
    assert done.exit_code == 0, done.stderr
    (shown,) = json.loads(done.stdout)["adapters"]
    assert (shown["name"], shown["base"], shown["kind"]) == ("my-adapter", "tiny", "adapter")
    details = shown["details"]
    assert (details["rank"], details["imported_from"]) == (8, "my-adapter")
    assert details["job_id"] is None
    assert json.loads(nanofleet("adapter", "list", "-o", "json").stdout)["adapters"] == [shown]
    header, row = nanofleet("adapter", "list").stdout.splitlines()
    assert header.split() == ["NAME", "BASE", "RANK", "SIZE", "FROM", "DATE"]
    assert row.split()[:3] == ["my-adapter", "tiny", "8"]

    assert nanofleet("artifact", "rm", "tiny").exit_code == 0
    (orphan,) = json.loads(nanofleet("adapter", "list", "-o", "json").stdout)["adapters"]
    assert orphan["base"] is None
    row = nanofleet("adapter", "list").stdout.splitlines()[1]
    assert row.split()[1] == details["base_digest"].partition(":")[2][:12]


@pytest.mark.usefixtures("fleet_home")
def test_an_adapter_that_cannot_be_served_is_refused_with_what_to_do(
    nanofleet: Invoke, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from tests.artifacts.convert import shapes

    assert nanofleet("model", "import", str(tiny_base), "--name", "tiny").exit_code == 0
    folder = tmp_path / "my-adapter"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    given = ("adapter", "import", str(folder), "--base")
    unknown = nanofleet(*given, "tinny")
    assert unknown.exit_code == 5
    assert "Did you mean tiny?" in unknown.stderr
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    pickled = nanofleet(*given, "tiny")
    assert pickled.exit_code == 5
    assert "pickles can run code" in " ".join(pickled.stderr.split())
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    other = nanofleet(*given, "tiny")
    assert other.exit_code == 2
    assert "Train a plain LoRA" in " ".join(other.stderr.split())
    assert json.loads(nanofleet("adapter", "list", "-o", "json").stdout)["adapters"] == []


def test_merging_into_a_quantised_base_is_refused_with_the_reason(
    nanofleet: Invoke, tmp_path: Path
) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    result = nanofleet(
        *("adapter", "merge", str(tmp_path), "--base", str(base), "--out", str(tmp_path / "out"))
    )
    assert result.exit_code == 2
    assert "drops or distorts" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
