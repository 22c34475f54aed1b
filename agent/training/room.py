"""Is the memory there that a training is predicted to need? It is taken, written to, given back.

By a child process: what it holds is not counted as the worker's own peak, and when it is not there
the child is killed for it instead of the worker, which lives to say so.

    python -m agent.training.room --parent PID --bytes SIZE
"""

import argparse
import mmap
import os
import subprocess
import sys
from collections.abc import Sequence

from agent.training.failures import TrainingFailure
from artifacts.parent import end_with
from protos.nanofleet.v1 import job_pb2


def take(size_bytes: int) -> None:
    """Raises TrainingFailure when the board has not so much memory to give. From the main thread,
    with which the child ends."""
    command = [sys.executable, "-m", "agent.training.room", "--parent", str(os.getpid())]
    child = subprocess.run([*command, "--bytes", str(size_bytes)], check=False)
    if child.returncode:
        raise TrainingFailure(
            job_pb2.CAUSE_OOM,
            f"The {size_bytes / 1e6:,.0f} MB that the training would need at its peak cannot be "
            "taken now: the board has not so much free memory. Give the recipe a memory_budget, "
            "lower sequence_length, rank or stored_layers, or free memory on the device.",
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    arguments = parser.parse_args(argv)
    end_with(arguments.parent)
    try:
        with mmap.mmap(-1, max(arguments.bytes, mmap.PAGESIZE)) as taken:
            for place in range(0, len(taken), mmap.PAGESIZE):
                taken[place] = 1
    except OSError as error:
        sys.exit(f"{arguments.bytes} bytes cannot be taken: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
