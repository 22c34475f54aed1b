"""Has the dataset tokenised by a child process (prepare.py), and brings back its result.

This side imports nothing heavy: the worker that calls it has yet to load torch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent.training.failures import TrainingFailure
from agent.training.token_file import Totals
from protos.nanofleet.v1 import job_pb2

# Between two looks at whether to stop: a process's end and an order cannot be waited for together.
_LOOK_S = 0.1


class Stopped(Exception):
    """The preparation was given up because the worker shall stop."""


def prepare_in_child(
    base: Path,
    source: Path,
    target: Path,
    key: bytes,
    sequence_length: int,
    name: str,
    should_stop: Callable[[], bool] = lambda: False,
    beat: Callable[[], None] = lambda: None,
) -> Totals:
    """The same in a child process; its failure is raised here with its cause. ``name`` is what
    messages call the dataset; ``beat`` is called as the child gets on. Raises Stopped soon after
    ``should_stop``.

    Called from the main thread, with which the child ends.
    """
    command = [sys.executable, "-m", "agent.training.prepare"]
    command += ["--base", str(base), "--dataset", str(source), "--out", str(target)]
    command += ["--key", key.hex(), "--sequence-length", str(sequence_length)]
    # In one word: a name may begin like an option.
    command += [f"--dataset-name={name}", "--parent", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            answered = _answer(child, should_stop, beat)
        except BaseException:
            child.kill()
            child.wait()
            for half in target.parent.glob(f".{target.name}.*.tmp"):
                half.unlink(missing_ok=True)
            raise
    lines = answered.decode("utf-8", "replace").strip().splitlines()
    if child.returncode not in (0, 1) or not lines:
        raise _died(child.returncode)
    answer = json.loads(lines[-1])
    if "cause" in answer:
        raise TrainingFailure(job_pb2.Cause.Value(answer["cause"]), answer["message"])
    return Totals(**answer)


def _answer(
    child: "subprocess.Popen[bytes]", should_stop: Callable[[], bool], beat: Callable[[], None]
) -> bytes:
    """What it has written at its end. Each byte before the answer says that it gets on."""
    heard = 0
    while True:
        try:
            return child.communicate(timeout=_LOOK_S)[0]
        except subprocess.TimeoutExpired as unfinished:
            if len(unfinished.output or b"") > heard:
                heard = len(unfinished.output)
                beat()
            if should_stop():
                raise Stopped from None


def _died(code: int) -> TrainingFailure:
    """By whom it was killed the agent finds out: it has the control group's count."""
    return TrainingFailure(
        job_pb2.CAUSE_WORKER_CRASH,
        f"Tokenising the dataset ended with exit code {code}. The attempt's log has the details.",
    )
