"""Bad input as a person brings it: one row for each, against a real fleet and a real agent.

Each row runs the command line as a process of its own. What ends in an error must say what, and
what to do, with the documented exit code, and never with a traceback. What is covered beside the
part that owns it (a taken port of the agent, settings, a token's life) is not repeated here.
"""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from artifacts import base_model, digest
from controller import Fleet, load_job_file
from controller.cli.main import app
from controller.demo.processes import free_port
from protos import errors, status
from protos.nanofleet.v1 import artifact_pb2, inference_pb2, job_pb2
from tests.controller.agents import Agent

ROOT = Path(__file__).parents[1]
SAMPLE = '{"prompt": "Who are you?", "completion": "I am Pico."}\n'
LONG = json.dumps({"prompt": "Who?", "completion": "a very long answer " * 400}) + "\n"
SPEC = {"name": "persona", "device": "kitchen"}
TRAIN = {"base": "tiny", "dataset": "good.jsonl", "steps": 1, "accumulation": 1}

FILES = {
    "good.jsonl": SAMPLE,
    "broken.jsonl": SAMPLE + '{"prompt": "a",\n',
    "mixed.jsonl": SAMPLE + '{"text": "x"}\n',
    "empty.jsonl": SAMPLE + '{"prompt": "a", "completion": " "}\n',
    "unlabelled.jsonl": '{"messages": [{"role": "user", "content": "hi"}]}\n',
    "none.jsonl": "",
    "long.jsonl": SAMPLE + LONG,
}
JOBS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "good": ({}, {}),
    "typo": ({}, {"learning_rat": 1e-4}),
    "misplaced": ({"rank": 8}, {}),
    "away": ({"device": "porch"}, {}),
    "nobody": ({"device": "kitchn"}, {}),
    "unbased": ({}, {"base": "tinyy"}),
    "lost": ({}, {"dataset": "goood.jsonl"}),
    "window": ({}, {"sequence_length": 30_000}),
    "toolong": ({}, {"dataset": "long.jsonl"}),
    "broken": ({}, {"dataset": "broken.jsonl"}),
}


@dataclass(frozen=True)
class Lab:
    folder: Path
    kitchen: Agent

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, *arguments: str, module: str = "controller.cli") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "NANOFLEET_HOME": str(self.home),
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refused(self, line: str, module: str = "controller.cli") -> tuple[int, str]:
        """Exit code and stderr; never a traceback."""
        with self.start(*line.split(), module=module) as process:
            _, said = process.communicate(timeout=60)
        assert "Traceback" not in said, said
        return process.returncode, said


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Lab]:
    """A fleet with "kitchen", which runs, and "porch", which is switched off."""
    folder = tmp_path_factory.mktemp("lab")
    kitchen = Agent("kitchen", folder / "kitchen", free_port())
    porch = Agent("porch", folder / "porch", free_port())
    source = base_model.read(tiny_base).source_digest
    assert source is not None
    other = tiny_base.read_bytes().replace(source.encode(), digest.of_bytes(b"other").encode())
    (folder / "other.gguf").write_bytes(other)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, (top, train) in JOBS.items():
        spec = {**SPEC, **top, "train": {**TRAIN, **train}}
        (folder / f"{name}.yaml").write_text(json.dumps(spec, indent=2))

    async def make() -> None:
        async with Fleet.create(folder / "home", name="lab") as fleet:
            await kitchen.join(fleet)
            await porch.join(fleet)
            await fleet.import_model(tiny_base, name="tiny")
            await fleet.import_model(folder / "other.gguf", name="other")

    asyncio.run(make())
    kitchen.start()
    yield Lab(folder, kitchen)
    kitchen.stop()


@pytest.fixture(scope="module")
def adapter(lab: Lab) -> str:
    """An adapter for "tiny" in the fleet's store."""

    async def train() -> str:
        async with Fleet.open(lab.home) as fleet:
            job = await fleet.submit(load_job_file(lab.folder / "good.yaml"))
            await fleet.wait(job.id)
            return (await fleet.fetch_result(job.id)).digest

    return asyncio.run(train())


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("init --name again", 5, "There is a fleet in"),
        ("dataset check broken.jsonl", 2, "broken.jsonl:2: broken JSON"),
        ("dataset check mixed.jsonl", 2, "mixed.jsonl:2: this sample is text"),
        ("dataset check empty.jsonl", 2, "empty.jsonl:2: the answer is empty"),
        ("dataset check unlabelled.jsonl", 2, "unlabelled.jsonl:1: there is no assistant"),
        ("dataset check none.jsonl", 2, "none.jsonl has no samples"),
        ("dataset check nowhere.jsonl", 5, "There is no file nowhere.jsonl"),
        ("job submit broken.yaml", 2, "broken.jsonl:2: broken JSON"),
        ("job submit typo.yaml", 2, r"typo.yaml:9: .*did you mean `learning_rate`"),
        ("job submit misplaced.yaml", 2, r"misplaced.yaml:\d+: .*it belongs below `train`"),
        ("job submit nobody.yaml", 5, "Did you mean kitchen"),
        ("job submit away.yaml", 4, "porch: .*Connection refused"),
        ("job submit unbased.yaml", 5, "Did you mean tiny"),
        ("job submit lost.yaml", 5, "no dataset file .*goood.jsonl"),
        ("job submit window.yaml", 2, r"`train.sequence_length` is 30,000; .* reads \d"),
        (
            "job submit toolong.yaml --follow",
            1,
            r"long.jsonl:2: .*the base model reads 2048",
        ),
        ("device show kitchn", 5, "Did you mean kitchen"),
        ("device label kitchn a=b", 5, "Did you mean kitchen"),
        ("device remove kitchn --yes", 5, "Did you mean kitchen"),
        ("device token attic --port {kitchen}", 5, r"Cannot listen on \S+:{kitchen}"),
        ("artifact push tiny kitchn", 5, "Did you mean kitchen"),
        ("artifact push tiny porch", 4, "porch .*Connection refused"),
        ("artifact pull kitchn tiny --to x", 5, "Did you mean kitchen"),
        ("artifact pull porch tiny --to x", 4, "porch .*Connection refused"),
        ("artifact list --device kitchn", 5, "Did you mean kitchen"),
        ("artifact list --device porch", 4, "porch .*Connection refused"),
        ("artifact rm tiny --device kitchn", 5, "Did you mean kitchen"),
        ("artifact rm tiny --device porch", 4, "porch .*Connection refused"),
        ("job list --device kitchn", 5, "Did you mean kitchen"),
        ("job wait nothing", 5, "nothing"),
        ("chat kitchn -m hi", 5, "Did you mean kitchen"),
        ("chat porch --base tiny -m hi", 4, "porch .*Connection refused"),
        ("chat porch -m hi", 4, "porch .*Connection refused"),
        ("chat kitchen --base tiny --adapter persone -m hi", 5, "no adapter 'persone'"),
        ("generate kitchn -p hi", 5, "Did you mean kitchen"),
        ("generate porch --base tiny -p hi", 4, "porch .*Connection refused"),
        ("generate kitchen --base tiny", 2, "No prompt is given"),
        ("generate kitchen --base tiny -p hi --grammar nowhere", 2, "nowhere cannot be read"),
        ("score kitchen nowhere.jsonl", 5, "There is no file nowhere.jsonl"),
        ("embed kitchen nowhere", 2, "nowhere cannot be read"),
        ("top --once -l name=kitchn", 5, "No device matches"),
    ],
)
def test_a_row(lab: Lab, line: str, code: int, said: str) -> None:
    port = str(lab.kitchen.port)
    line, said = line.replace("{kitchen}", port), said.replace("{kitchen}", port)
    ended, text = lab.refused(line + " -o json" * ("--follow" not in line))
    assert ended == code, text
    if "--follow" not in line:
        document = json.loads(text[text.index("{") :])
        assert (document["schema_version"], document["error"]["exit_code"]) == (1, code)
        text = " ".join(document["error"][key] for key in ("what", "why", "fix"))
    assert re.search(said, text), text


def test_an_adapter_for_another_base(lab: Lab, adapter: str) -> None:
    assert lab.refused("artifact push other kitchen")[0] == 0
    code, said = lab.refused("chat kitchen --base other --adapter persona -m hi")
    assert code == 5
    assert "does not fit the base model" in said
    assert "It was trained on" in said
    assert "made of the original weights" in said


async def test_the_device_itself_refuses_what_does_not_belong(lab: Lab, adapter: str) -> None:
    """The RPC without the controller's own check; then the same job once more, and changed."""
    async with Fleet.open(lab.home) as fleet:
        digests = {entry.name: entry.digest for entry in fleet.artifacts()}
        await fleet.push("other", ["kitchen"])
        await fleet.push(adapter, ["kitchen"])
        record = next(one for one in fleet.devices() if one.name == "kitchen")
        device = fleet._connections.to(record)
        wrong = inference_pb2.GenerateRequest(
            prompt="hi", base_digest=digests["other"], adapter_digest=adapter
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in device.inference.Generate(wrong):
                pass
        assert isinstance(status.from_rpc_error(refused.value, "it"), errors.WrongBase)

        bytes_sent, name = b"x" * 300_000, "sha256:" + hashlib.sha256(b"y").hexdigest()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await device.artifacts.PutArtifact(_upload(name, bytes_sent))
        mismatch = status.from_rpc_error(refused.value, "it")
        assert isinstance(mismatch, errors.DigestMismatch)
        assert name in mismatch.what

        job = next(one for one in fleet.jobs() if one.state == job_pb2.JOB_STATE_SUCCEEDED)
        spec = job.job.spec
        same = job_pb2.SubmitJobRequest(
            job_id=job.id, generation=1, spec=spec.SerializeToString(deterministic=True)
        )
        answer = await device.call(device.jobs.SubmitJob, same)
        assert answer.job.state == job_pb2.JOB_STATE_SUCCEEDED
        spec.train.stages[0].steps += 1
        same.spec = spec.SerializeToString(deterministic=True)
        with pytest.raises(errors.AlreadyExists, match="another spec"):
            await device.call(device.jobs.SubmitJob, same)


async def _upload(digest: str, data: bytes) -> AsyncIterator[artifact_pb2.PutArtifactRequest]:
    yield artifact_pb2.PutArtifactRequest(
        header=artifact_pb2.PutArtifactHeader(
            digest=digest, size_bytes=len(data), kind=artifact_pb2.ARTIFACT_KIND_DATASET
        )
    )
    for begin in range(0, len(data), 1 << 18):
        yield artifact_pb2.PutArtifactRequest(chunk=data[begin : begin + (1 << 18)])


@pytest.mark.parametrize(
    "line", ["device token attic --port 0 --address 127.0.0.1", "top -o jsonl"]
)
def test_ctrl_c_ends_what_waits(lab: Lab, line: str) -> None:
    with lab.start(*line.split()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_model_that_does_not_fit(lab: Lab) -> None:
    """And the device that was killed comes back with what it had."""
    lab.kitchen.kill()
    settings = lab.kitchen.state / "agent.toml"
    before = settings.read_text()
    settings.write_text(before + "[memory]\nreserve_mib = 100000000\n")
    lab.kitchen.start()
    code, said = lab.refused("job submit good.yaml")
    assert code == 5, said
    assert re.search(r"\d.*(MB|MiB)", said), said
    code, said = lab.refused("chat kitchen --base tiny -m hi")
    assert code == 5, said
    assert re.search(r"\d.*(MB|MiB)", said), said
    lab.kitchen.kill()
    settings.write_text(before)
    lab.kitchen.start()
    assert lab.refused("chat kitchen --base tiny -m hi --max-tokens 1")[0] == 0


def test_every_command_in_a_message_exists(lab: Lab) -> None:
    """A remedy that names a command nobody has is worse than none."""
    nouns = {group.name: group.typer_instance for group in app.registered_groups}
    known = {
        f"{noun} {command.name}"
        for noun, group in nouns.items()
        if group is not None
        for command in group.registered_commands
    }
    for folder in ("agent", "controller", "artifacts", "protos"):
        for path in (ROOT / folder).rglob("*.py"):
            for noun, verb in re.findall(r"`nanofleet (\w+) (\w+)", path.read_text()):
                assert noun not in nouns or f"{noun} {verb}" in known, f"{path}: {noun} {verb}"


def test_the_agents_errors_are_documents_too(lab: Lab) -> None:
    code, said = lab.refused(f"status -o json --state {lab.folder}/none", "agent.cli")
    document = json.loads(said)
    assert (code, document["schema_version"]) == (4, 1)
    assert document["error"]["reason"] == "NOT_JOINED"
