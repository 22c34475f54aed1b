"""The worker's own log is its stderr, a file of the agent's on a disk that may be full.

What cannot be written there must not end a training, or keep its failure from being reported.
"""

import contextlib
import os
import sys
import traceback


def say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def say_error() -> None:
    """The traceback of the exception that is being handled."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def give_up() -> None:
    """Drops what could not be written: trying again at its end, Python would exit with 120."""
    try:
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        sys.stderr.flush()
