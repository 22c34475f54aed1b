"""Two people at one fleet's folder: commands that submit, collect and fetch at the same moment."""

import json
import os
import subprocess
import sys
from pathlib import Path

from controller import Fleet
from controller.store import jobs as stored_jobs
from protos.nanofleet.v1 import job_pb2
from tests.controller.agents import ROOT

SPEC = {
    "name": "twin",
    "device": "kitchen",
    "train": {
        "base": "tiny",
        "dataset": "persona.jsonl",
        "steps": 2,
        "accumulation": 1,
        "sequence_length": 64,
    },
}


def start(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "controller.cli", *arguments, "--home", str(home)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: "list[subprocess.Popen[str]]") -> list[str]:
    said = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(processes), said
    return [out for out, _ in said]


async def test_nothing_is_lost_and_nobody_is_refused(
    running: Path, dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "twin.yaml"
    file.write_text(json.dumps(SPEC))
    ids = [
        out.strip() for out in ended([start(running, "job", "submit", str(file)) for _ in range(2)])
    ]
    assert len(set(ids)) == 2

    # All of them follow the same journal and write what they read into the same store.
    ended([start(running, "job", "wait", each) for each in ids] + [start(running, "job", "list")])
    async with Fleet.open(running) as fleet:
        found = [fleet.job(each) for each in ids]
        assert [job.state for job in found] == [job_pb2.JOB_STATE_SUCCEEDED] * 2
        for job in found:
            seqs = [event.seq for event in fleet.events(job.id)]
            assert seqs == sorted(set(seqs))
            assert job.job.result.adapter_digest
        with fleet._store.read() as transaction:
            assert not stored_jobs.unfinished(transaction)

    fetched = ended([start(running, "job", "result", ids[0], "-o", "json") for _ in range(3)])
    digests = {json.loads(out)["adapter"]["digest"] for out in fetched}
    assert digests == {found[0].job.result.adapter_digest}
