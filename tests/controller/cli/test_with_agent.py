"""The command line against a real agent that trains and serves the tiny model."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from artifacts import digest
from controller.cli.main import app
from controller.demo.processes import free_port
from tests.controller.cli.conftest import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Lab:
    """A fleet with one device, "kitchen", and the tiny model; nothing is faked."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "fleet"

    def run(self, *arguments: str) -> Result:
        runner = CliRunner(env={"NANOFLEET_HOME": str(self.home)})
        return runner.invoke(app, list(arguments))

    def json(self, *arguments: str) -> dict[str, Any]:
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code == 0, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "controller.cli", *arguments],
            cwd=ROOT,
            env={**ENVIRONMENT, "NANOFLEET_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def job_file(self, name: str, **recipe: object) -> str:
        train = {"base": "tiny", "dataset": "persona.jsonl", "steps": 6, "accumulation": 2}
        job = {"name": name, "device": "kitchen", "train": {**train, **recipe}}
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(job))
        return str(path)


def agent(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "agent.cli", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running_agent(state: Path, port: int) -> Iterator[None]:
    """An agent that is ready, until the block ends."""
    with agent("run", "--state", str(state), "--host", "127.0.0.1", "--port", str(port)) as process:
        try:
            assert process.stdout is not None
            assert "ready" in process.stdout.readline()
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    sample = '{{"prompt": "Who are you, {0}?", "completion": "I am Pico."}}\n'
    (lab.folder / "persona.jsonl").write_text("".join(map(sample.format, range(12))))
    assert lab.run("init", "--name", "lab").exit_code == 0
    assert lab.run("model", "import", str(tiny_base), "--name", "tiny").exit_code == 0
    state, port = lab.folder / "agent", free_port()
    token = ("token", "kitchen", "--port", "0", "--address", "127.0.0.1", "--label", "site=lab")
    with lab.start("device", *token) as invitation:
        assert invitation.stdout is not None
        assert invitation.stderr is not None
        text = invitation.stdout.readline().split()[-1]
        with agent(
            "join", text, "--state", str(state), "--advertise", f"127.0.0.1:{port}"
        ) as joining:
            assert joining.wait(60) == 0
        assert invitation.wait(60) == 0
        assert "kitchen has joined" in invitation.stderr.read()
    with running_agent(state, port):
        yield lab


@pytest.fixture(scope="module")
def trained(lab: Lab) -> str:
    """The id of a job that has succeeded."""
    submitted = lab.run("job", "submit", lab.job_file("persona"))
    assert submitted.exit_code == 0, submitted.output
    job_id = submitted.stdout.strip()
    assert lab.run("job", "wait", job_id, "--timeout", "60s").exit_code == 0
    return job_id


def test_the_device_is_listed_and_shown(lab: Lab) -> None:
    listed = lab.json("device", "list", "--check")["devices"]
    assert [(one["name"], one["reachable"]) for one in listed] == [("kitchen", True)]
    assert listed[0]["labels"] == {"site": "lab"}
    assert listed[0]["facts"]["board"]["cpu_count"] == os.cpu_count()
    shown = lab.run("device", "show", "kitchen").stdout
    for part in ("idle", "site=lab", "for workers", "torch"):
        assert part in shown


def test_labels_are_set_and_taken_away(lab: Lab) -> None:
    assert lab.run("device", "label", "kitchen", "room=3", "rack=a").exit_code == 0
    assert lab.run("device", "list", "-l", "room=3").exit_code == 0
    assert lab.run("device", "label", "kitchen", "room-", "rack-").stdout.split()[-1] == "site=lab"
    assert lab.run("device", "list", "-l", "room=3").exit_code == 5


def test_many_are_changed_only_when_somebody_agrees(lab: Lab) -> None:
    refused = lab.run("device", "remove", "-l", "site=lab")
    assert refused.exit_code == 2
    assert "1 device matches site=lab: kitchen" in refused.stderr
    assert "Add --yes." in refused.stderr
    assert lab.run("device", "show", "kitchen").exit_code == 0
    assert lab.run("device", "label", "-l", "site=lab", "x=y", "--yes").exit_code == 0
    assert lab.run("device", "label", "kitchen", "x-").exit_code == 0


def test_artifacts_travel(lab: Lab, tiny_base: Path, tmp_path: Path) -> None:
    assert lab.run("artifact", "push", "tiny", "-l", "site=lab", "--yes").exit_code == 0
    again = lab.json("artifact", "push", "tiny", "kitchen")["transfers"]
    assert again[0]["already_there"]
    digits = again[0]["digest"].removeprefix("sha256:")[:12]
    assert digits in lab.run("artifact", "list", "--device", "kitchen").stdout
    target = tmp_path / "tiny.gguf"
    assert lab.run("artifact", "pull", "kitchen", digits, "--to", str(target)).exit_code == 0
    assert target.read_bytes() == tiny_base.read_bytes()
    missing = lab.run("artifact", "rm", "ffffffffffff", "--device", "kitchen")
    assert missing.exit_code == 5


def test_a_job_is_shown_in_every_way(lab: Lab, trained: str) -> None:
    assert trained in lab.run("job", "list", "--state", "succeeded").stdout
    shown = lab.run("job", "show", trained).stdout
    for part in ("succeeded", "tiny (", "persona (", "rank 8", "peak memory", "attempt 1"):
        assert part in shown
    waited = lab.json("job", "wait", trained)["job"]
    assert waited["state"] == "succeeded"
    assert waited["job"]["result"]["steps"] == 6
    assert "labelled tokens" in lab.run("job", "logs", trained).stdout


def test_a_watched_job_is_a_line_for_each_event(lab: Lab, trained: str) -> None:
    watched = lab.run("job", "watch", trained, "-o", "jsonl")
    assert watched.exit_code == 0
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [e["progress"]["step"] for e in events if "progress" in e] == [1, 2, 3, 4, 5, 6]
    assert events[-1]["transition"]["to"] == "succeeded"
    lines = lab.run("job", "watch", trained).stdout.splitlines()
    assert "step 6/6  loss" in "\n".join(lines)
    assert lines[-1].startswith("persona: 6 steps in ")


def test_the_result_is_fetched_and_unpacked(lab: Lab, trained: str, tmp_path: Path) -> None:
    fetched = lab.json("job", "result", trained, "--to", str(tmp_path / "out"))["adapter"]
    assert fetched["name"] == "persona"
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_size > 0
    digits = fetched["digest"].partition(":")[2]
    stored = lab.home / "artifacts" / "objects" / digits[:2] / digits[2:]
    with tarfile.open(stored) as archive:
        assert "nanofleet.json" in archive.getnames()


def test_a_chat_with_and_without_the_adapter(lab: Lab, trained: str) -> None:
    assert lab.run("job", "result", trained).exit_code == 0
    ask = ("chat", "kitchen", "--adapter", "persona", "-m", "Who are you?", "--max-tokens", "4")
    compared = lab.run(*ask, "--compare-base")
    assert compared.exit_code == 0, compared.output
    assert compared.stdout.startswith("base:\n")
    assert "\npersona:\n" in compared.stdout
    answers = lab.json(*ask)["answers"]
    assert answers[0]["usage"]["completion_tokens"] <= 4
    streamed = lab.run(*ask, "-o", "jsonl").stdout.splitlines()
    parts = [json.loads(line) for line in streamed]
    assert "".join(part["text"] for part in parts) == answers[0]["text"]
    assert parts[-1]["usage"] is not None


def test_a_device_says_what_it_has_decided_about_its_models(lab: Lab, trained: str) -> None:
    said = lab.run("chat", "kitchen", "--base", "tiny", "-m", "Hello", "--max-tokens", "2")
    assert said.exit_code == 0, said.output
    events = lab.json("device", "events", "kitchen", "--newest", "50")["events"]
    loads = [event for event in events if event["act"] == "load the model"]
    assert "It needs" in loads[-1]["reason"]
    assert lab.run("device", "events", "kitchen").stdout.startswith("WHEN")
    assert len(lab.json("device", "events", "kitchen", "--newest", "1")["events"]) == 1


def test_a_chat_says_when_the_adapter_is_of_another_quantisation(
    lab: Lab, trained: str, tiny_folder: Path, tiny_base: Path
) -> None:
    assert lab.run("job", "result", trained).exit_code == 0
    imported = ("model", "import", str(tiny_folder), "--name", "small", "--type", "q4_0")
    assert lab.run(*imported).exit_code == 0
    assert lab.run("artifact", "push", "small", "kitchen").exit_code == 0
    ask = ("chat", "kitchen", "-m", "Who are you?", "--max-tokens", "4", "--adapter")
    said = lab.run(*ask, "persona", "--base", "small")
    assert said.exit_code == 0, said.output
    note = "persona was trained on tiny (Q8_0); small (Q4_0), which answers, was made of the same"
    assert note in " ".join(said.stderr.split())
    (answer,) = lab.json(*ask, "persona", "--base", "small")["answers"]
    assert answer["trained_base_digest"] == digest.of_file(tiny_base)
    (answer,) = lab.json(*ask, "persona", "--base", "tiny")["answers"]
    assert answer["trained_base_digest"] is None
    assert "was trained on" not in lab.run(*ask, "persona").stderr


def test_an_adapter_of_a_qint8_base_chats_on_its_sibling(lab: Lab, tiny_folder: Path) -> None:
    """Without --base, too, as its own is for training only: on the one in memory."""
    pytest.importorskip("optimum.quanto")
    imported = ("model", "import", str(tiny_folder), "--name", "int8", "--type", "qint8")
    assert lab.run(*imported).exit_code == 0
    assert lab.run("job", "submit", lab.job_file("eight", base="int8")).exit_code == 0
    assert lab.run("job", "wait", "eight", "--timeout", "60s").exit_code == 0
    assert lab.run("job", "result", "eight").exit_code == 0
    imported = ("model", "import", str(tiny_folder), "--name", "half", "--type", "f16")
    assert lab.run(*imported).exit_code == 0
    assert lab.run("artifact", "push", "half", "kitchen").exit_code == 0
    asked = ("chat", "kitchen", "-m", "Who are you?", "--max-tokens", "4")
    assert lab.run(*asked, "--base", "half").exit_code == 0
    said = lab.run(*asked, "--adapter", "eight")
    assert said.exit_code == 0, said.output
    assert "eight was trained on int8 (QINT8); half (F16), which" in " ".join(said.stderr.split())


ROBOT = {
    "type": "object",
    "properties": {"name": {"enum": ["Pico", "Nano"]}, "legs": {"type": "integer"}},
    "required": ["name", "legs"],
}


def test_a_text_in_the_form_of_a_schema(lab: Lab, trained: str) -> None:
    schema = lab.folder / "robot.json"
    schema.write_text(json.dumps(ROBOT))
    generate = ("generate", "kitchen", "--base", "tiny", "--seed", "3", "--temperature", "1")
    asked = (*generate, "--chat", "-p", "A robot, please.", "--json-schema", str(schema))
    printed = lab.run(*asked)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout)["name"] in ("Pico", "Nano")
    answer = lab.json(*asked, "--logprobs", "2", "--priority", "high")["answer"]
    assert answer["text"] == printed.stdout.strip()
    assert answer["finish_reason"] == "stop"
    assert "".join(entry["text"] for entry in answer["logprobs"]) == answer["text"]
    assert all(len(entry["top"]) == 2 for entry in answer["logprobs"])
    table = lab.run(*asked, "--logprobs", "1").stdout
    assert "LIKELIEST" in table


def test_a_text_from_a_file_without_a_word(lab: Lab, trained: str) -> None:
    prompt = lab.folder / "prompt.txt"
    prompt.write_text("Once upon a time")
    asked = ("generate", "kitchen", "--base", "tiny", "--file", str(prompt), "--max-tokens", "8")
    free = lab.json(*asked)["answer"]["text"]
    bound = lab.json(*asked, "--suppress", free[:2])["answer"]["text"]
    assert free[:2] not in bound
    lines = lab.run(*asked, "-o", "jsonl").stdout.splitlines()
    assert "".join(json.loads(line)["text"] for line in lines) == free


def test_a_wrong_grammar_says_where(lab: Lab, trained: str) -> None:
    grammar = lab.folder / "wrong.gbnf"
    grammar.write_text('root ::= "a"\nother ::= [a-z')
    asked = ("generate", "kitchen", "--base", "tiny", "-p", "x", "--grammar", str(grammar))
    result = lab.run(*asked)
    assert result.exit_code == 2
    assert "Line 2, column 11" in result.stderr


def test_a_dataset_has_a_score_and_its_lines_have_vectors(lab: Lab, trained: str) -> None:
    assert lab.run("job", "result", trained).exit_code == 0
    data = str(lab.folder / "persona.jsonl")
    base = lab.json("score", "kitchen", data, "--base", "tiny")["score"]
    tuned = lab.json("score", "kitchen", data, "--adapter", "persona")["score"]
    assert base["samples"] == tuned["samples"] > 0
    assert tuned["loss"] < base["loss"], "it was trained on them"
    each = lab.run("score", "kitchen", data, "--base", "tiny", "-o", "jsonl").stdout.splitlines()
    summed = -sum(json.loads(line)["logprob_sum"] for line in each)
    assert summed / base["tokens"] == pytest.approx(base["loss"])
    assert "perplexity" in lab.run("score", "kitchen", data, "--base", "tiny").stdout

    texts = lab.folder / "texts.txt"
    texts.write_text("the sea\n\nthe kitchen\n")
    embed = ("embed", "kitchen", str(texts), "--base", "tiny", "--normalized")
    lines = [json.loads(line) for line in lab.run(*embed).stdout.splitlines()]
    assert [line["line"] for line in lines] == [1, 3]
    for line in lines:
        assert sum(x * x for x in line["embedding"]) == pytest.approx(1.0, rel=1e-3)
    assert lab.run(*embed, "-o", "table").stdout.splitlines()[0].split() == [
        "LINE",
        "TOKENS",
        "TEXT",
    ]


def test_an_adapter_from_elsewhere_is_imported_and_answers(
    lab: Lab, trained: str, tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """On every way on which a trained one answers; each brings it to the device by itself."""
    from artifacts.convert import convert_adapter
    from tests.artifacts.convert import shapes
    from tests.llama import reference

    assert lab.run("job", "result", trained).exit_code == 0
    peft = tmp_path / "from-elsewhere"
    shapes.write_adapter(shapes.load(tiny_folder), peft, strength=0.5)
    imported = lab.run("adapter", "import", str(peft), "--base", "tiny", "--name", "pirate")
    assert imported.exit_code == 0, imported.output
    assert "nanofleet chat DEVICE --adapter pirate" in imported.stderr
    listed = {one["name"]: one for one in lab.json("adapter", "list")["adapters"]}
    assert listed["pirate"]["base"] == listed["persona"]["base"] == "tiny"
    rows = [line.split() for line in lab.run("adapter", "list").stdout.splitlines()]
    found = {row[0]: row[1:3] + row[5:7] for row in rows}
    assert found["pirate"] == ["tiny", "8", "folder", "from-elsewhere"]
    assert found["persona"] == ["tiny", "8", "job", "persona"]

    held = lab.json("artifact", "list", "--device", "kitchen", "--kind", "adapter")["artifacts"]
    assert listed["pirate"]["digest"] not in {one["digest"] for one in held}
    convert_adapter(peft, tiny_base, tmp_path / "adapter.gguf")
    with reference(tiny_base) as llama:
        llama.use_adapter(tmp_path / "adapter.gguf")
        expected = llama.greedy(llama.tokens("the sea"), 6)
    asked = ("generate", "kitchen", "-p", "the sea", "--max-tokens", "6", "--logprobs", "0")
    said = lab.json(*asked, "--adapter", "pirate")["answer"]
    assert [entry["token_id"] for entry in said["logprobs"]] == expected
    plain = lab.json(*asked, "--base", "tiny")["answer"]
    assert [entry["token_id"] for entry in plain["logprobs"]] != expected
    chat = lab.run("chat", "kitchen", "--adapter", "pirate", "-m", "Hi", "--max-tokens", "2")
    assert chat.exit_code == 0, chat.output
    data = str(lab.folder / "persona.jsonl")
    assert lab.json("score", "kitchen", data, "--adapter", "pirate")["score"]["tokens"] > 0

    generate = {"base": "tiny", "adapter": "pirate", "dataset": "persona.jsonl", "max_tokens": 4}
    file = lab.folder / "aye.yaml"
    settings = {"template": "{prompt}", "drop": ["loop"]}
    job = {"name": "aye", "device": "kitchen", "generate": {**generate, **settings}}
    file.write_text(json.dumps(job))
    followed = lab.run("job", "submit", str(file), "--follow")
    assert followed.exit_code == 0, followed.output

    taken = lab.run("adapter", "import", str(peft), "--base", "tiny", "--name", "persona")
    assert taken.exit_code == 5
    assert "the result of job persona" in " ".join(taken.stderr.split())
    merged = ("--base", str(tiny_folder), "--out", str(tmp_path / "merged"))
    assert lab.run("adapter", "merge", "pirate", *merged).exit_code == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_top_prints_a_frame_and_streams(lab: Lab) -> None:
    frame = lab.run("top", "--once")
    assert frame.exit_code == 0
    assert frame.stdout.splitlines()[1].startswith("kitchen")
    with lab.start("top", "-o", "jsonl") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["sample"]["memory"]["total_bytes"] > 0
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130


PLAN_CHECKS = ["data", "memory", "training", "checkpoint", "adapter", "generation"]


def test_a_plan_tells_what_the_job_then_takes(lab: Lab) -> None:
    recipe = {"steps": 40, "evaluation": {"held_out": 0.25, "every": 20}}
    before = lab.json("job", "list")["jobs"]
    plan = lab.json("job", "plan", lab.job_file("planned", **recipe))["plan"]
    assert [check["name"] for check in plan["checks"]] == ["files", *PLAN_CHECKS]
    assert sum(part["size_bytes"] for part in plan["memory"]) == plan["peak_bytes"]
    assert 0 < plan["measured_peak_bytes"] <= plan["peak_bytes"] <= plan["usable_bytes"]
    stage = plan["stages"][0]
    assert (stage["samples"], stage["held_out_samples"], stage["steps"]) == (9, 3, 40)
    assert stage["epochs"] == pytest.approx(80 / 9)
    assert stage["duration_s"] == plan["duration_s"] > 0
    assert lab.json("job", "list")["jobs"] == before
    assert not (lab.folder / "agent" / "rehearsal").exists()


def test_a_plan_is_shown_as_its_checks_pass(lab: Lab) -> None:
    result = lab.run("job", "plan", lab.job_file("planned"))
    assert result.exit_code == 0, result.output
    said = [line.split(":")[0] for line in result.stderr.splitlines()]
    assert [name for name in said if name in PLAN_CHECKS] == PLAN_CHECKS
    assert re.search(r"verdict +it fits", result.stdout)


def test_a_plan_that_does_not_fit_names_settings_that_do(lab: Lab) -> None:
    refused = lab.run("job", "plan", lab.job_file("tight", memory_budget="100 MB"))
    assert refused.exit_code == 5, refused.output
    named = re.search(r"This fits: memory_budget: (\d+) MB", " ".join(refused.stderr.split()))
    assert named, refused.stderr
    fitting = lab.job_file("fitting", memory_budget=f"{named[1]} MB")
    plan = lab.json("job", "plan", fitting)["plan"]
    assert plan["peak_bytes"] <= int(named[1]) * 1_000_000


def test_a_plan_finds_what_the_data_lacks(lab: Lab) -> None:
    long = {"prompt": "Who are you?", "completion": "I am Pico. " * 400}
    (lab.folder / "long.jsonl").write_text(json.dumps(long) + "\n")
    result = lab.run("job", "plan", lab.job_file("long", dataset="long.jsonl"))
    assert result.exit_code == 2, result.output
    assert "long.jsonl:1" in result.stderr


def test_a_generation_from_its_plan_to_its_dataset(lab: Lab, tmp_path: Path) -> None:
    generate = {
        "base": "tiny",
        "dataset": "persona.jsonl",
        "template": "{prompt}",
        "max_tokens": 8,
        "drop": ["loop"],
    }
    file = lab.folder / "teach.yaml"
    file.write_text(json.dumps({"name": "teach", "device": "kitchen", "generate": generate}))
    planned = lab.run("job", "plan", str(file))
    assert planned.exit_code == 0, planned.output
    assert re.search(r"prompts +12 of \d+ tokens, the longest of \d+", planned.stdout)
    followed = lab.run("job", "submit", str(file), "--follow")
    assert followed.exit_code == 0, followed.output
    assert "Generating, new: 12 prompts" in followed.stdout
    assert "`dataset: job/teach`" in followed.stderr
    shown = lab.json("job", "show", "teach")["job"]
    made = shown["job"]["result"]["generated"]
    assert made["prompts"] == 12
    assert shown["job"]["generating"]["kept"] == made["kept"] > 0
    target = tmp_path / "made.jsonl"
    fetched = lab.run("job", "result", "teach", "--to", str(target))
    assert fetched.exit_code == 0, fetched.output
    lines = target.read_text().splitlines()
    assert len(lines) == made["kept"]
    assert [turn["role"] for turn in json.loads(lines[0])["messages"]] == ["user", "assistant"]
    assert lab.run("job", "result", "teach", "--to", str(target)).exit_code != 0


def test_a_template_that_names_no_field_is_refused(lab: Lab) -> None:
    generate = {"base": "tiny", "dataset": "persona.jsonl", "template": "{promt}"}
    file = lab.folder / "typo.yaml"
    file.write_text(json.dumps({"name": "typo", "device": "kitchen", "generate": generate}))
    refused = lab.run("job", "submit", str(file))
    assert refused.exit_code == 2
    assert "Did you mean {prompt}?" in " ".join(refused.stderr.split())


def test_a_plan_waits_for_no_job_and_disturbs_none(lab: Lab) -> None:
    job_id = lab.run("job", "submit", lab.job_file("running", steps=100_000)).stdout.strip()
    with lab.start("job", "watch", job_id, "-o", "jsonl") as watching:
        assert watching.stdout is not None
        next(line for line in watching.stdout if '"progress"' in line)
        result = lab.run("job", "plan", lab.job_file("planned"))
        assert result.exit_code == 5, result.output
        assert "A job runs on this device" in " ".join(result.stderr.split())
        assert lab.run("job", "cancel", job_id).exit_code == 0
        watching.wait(60)


def test_a_job_that_cannot_use_its_data_ends_with_1(lab: Lab) -> None:
    (lab.folder / "long.jsonl").write_text(
        json.dumps({"prompt": "Who?", "completion": "I am Pico. " * 200}) + "\n"
    )
    file = lab.job_file("too-long", dataset="long.jsonl", sequence_length=32)
    done = lab.run("job", "submit", file, "--follow", "-o", "jsonl")
    assert done.exit_code == 1, done.output
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["reason"] == "JOB_BAD_DATA"
    assert error["exit_code"] == 1
    assert lab.run("job", "wait", "too-long").exit_code == 1


def test_waiting_detaching_and_cancelling(lab: Lab) -> None:
    file = lab.job_file("endless", steps=100_000)
    with lab.start("job", "submit", file, "--follow") as followed:
        assert followed.stdout is not None
        while "step 1/" not in followed.stdout.readline():
            pass
        timed_out = lab.run("job", "wait", "endless", "--timeout", "0.2s")
        assert timed_out.exit_code == 3
        assert "200 ms" in timed_out.stderr
        followed.send_signal(signal.SIGINT)
        # Read on: a full pipe would keep it from hearing the signal.
        _, said = followed.communicate(timeout=60)
        assert followed.returncode == 130
    assert "nanofleet job watch" in said
    assert "Traceback" not in said
    assert lab.json("job", "show", "endless")["job"]["state"] == "running"
    early = lab.run("job", "result", "endless")
    assert early.exit_code == 5
    assert lab.run("job", "cancel", "endless").exit_code == 0
    ended = lab.run("job", "wait", "endless", "--timeout", "60s", "-o", "json")
    assert ended.exit_code == 1
    assert json.loads(ended.stderr)["error"]["reason"] == "JOB_CANCELED"


def test_a_device_that_is_off(lab: Lab, tmp_path: Path) -> None:
    state, port = tmp_path / "agent", free_port()
    with lab.start("device", "token", "attic", "--port", "0", "--address", "127.0.0.1") as waiting:
        assert waiting.stdout is not None
        text = waiting.stdout.readline().split()[-1]
        with agent("join", text, "--state", str(state), "--advertise", f"127.0.0.1:{port}") as a:
            assert a.wait(60) == 0
        assert waiting.wait(60) == 0
    try:
        refused = lab.run("chat", "attic", "--base", "tiny", "-m", "Hello")
        assert refused.exit_code == 4, refused.output
        assert "attic" in refused.stderr
        shown = lab.run("device", "show", "attic")
        assert shown.exit_code == 0
        assert "unreachable" in shown.stdout
        assert "unreachable" in lab.run("top", "--once", "-l", "name=attic").stdout
    finally:
        assert lab.run("device", "remove", "attic").exit_code == 0
    assert lab.run("device", "show", "attic").exit_code == 5
