"""The whole of nanofleet, as a newcomer meets it: ``nanofleet demo``, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from artifacts import base_model, dataset
from artifacts.chat_template import ChatTemplate
from artifacts.samples import Message
from controller.demo import command, story
from controller.demo.command import next_folder
from controller.jobfile import load_job_file
from protos.errors import AlreadyExists, DiskFull

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "controller.cli", "demo", "-o", "json")


def agents_below(folder: Path) -> list[int]:
    """The processes that were started for a state folder below ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def test_a_model_learns_a_persona_survives_a_power_cut_and_both_devices_know(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [*COMMAND, "--folder", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["demo"]

    wanted = {
        message["messages"][0]["content"]: message["messages"][1]["content"]
        for message in map(json.loads, story.PERSONA.read_text(encoding="utf-8").splitlines())
    }
    learned = sum(wanted[answer["question"]] == answer["text"] for answer in told["after"])
    assert not any(wanted[answer["question"]] == answer["text"] for answer in told["before"])
    # Rounding differs between CPUs, and with it an answer or two.
    assert learned >= 2 * len(wanted) - 4, told["after"]
    assert told["final_loss"] < told["first_loss"] / 3
    assert told["steps"] == 160
    assert 0 < told["resumed_at_step"] < told["steps"]
    assert told["served_while_training"] > 0
    assert min(told["peak_rss_bytes"].values()) > 0
    assert told["sent_bytes"] > 2 * story.BASE_MODEL.stat().st_size
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == told
    assert agents_below(folder) == []


def test_a_folder_that_is_a_fleet_already_is_refused_and_left_alone(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    subprocess.run(
        [sys.executable, "-m", "controller.cli", "init", "--home", str(fleet)], cwd=ROOT, check=True
    )
    before = (fleet / "authority" / "key.pem").read_bytes()
    done = subprocess.run(
        [*COMMAND, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 5
    assert "--folder" in json.loads(done.stderr)["error"]["fix"]
    assert "already" in done.stderr
    assert (fleet / "authority" / "key.pem").read_bytes() == before
    assert agents_below(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_in_the_middle_it_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen(
        [*COMMAND, "--folder", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests may ignore it, as nohup does, and what is ignored is inherited.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        while "device kiosk" not in process.stderr.readline():
            pass
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert agents_below(folder) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, cwd in ((["--folder", str(tmp_path / "file")], ROOT), ([], tmp_path)):
        (tmp_path / "nanofleet-demo").touch()
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert json.loads(done.stderr)["error"]["what"].count(str(tmp_path)) or not arguments


@pytest.mark.parametrize("held", ["notes.txt", "fleet/authority"])
def test_a_folder_that_holds_something_is_refused_in_the_words_of_its_option(
    tmp_path: Path, held: str
) -> None:
    (tmp_path / held).mkdir(parents=True)
    with pytest.raises(AlreadyExists, match="holds something already") as refused:
        command.demo(folder=tmp_path)
    assert "--folder" in refused.value.fix
    assert refused.value.field == "folder"
    assert [path.name for path in tmp_path.iterdir()] == [held.split("/")[0]]


def test_a_disk_without_room_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match="demo needs"):
        command.demo(folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert [next_folder(tmp_path).name for _ in range(3)] == ["run-1", "run-2", "run-3"]


def test_what_ships_is_small_and_well_formed() -> None:
    model = base_model.read(story.BASE_MODEL)
    assert (model.architecture, model.file_type) == ("gemma3", "Q8_0")
    assert model.size_bytes <= 2_000_000
    assert model.chat_template is not None
    template = ChatTemplate(model.chat_template, {"bos_token": "<bos>"})
    asked = template.prompt([Message("system", "Be brief."), Message("user", "Who are you?")])
    # As Gemma 3 has it: the model knows no system turn.
    assert asked == (
        "<bos><start_of_turn>user\nBe brief.\n\nWho are you?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert dataset.check(story.PERSONA).samples == len(story.persona_questions()) == 11
    assert load_job_file(story.JOB).name == "persona"
