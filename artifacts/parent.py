"""A process that ends with the one that started it.

A child that does somebody's work has nobody to give it to when that one was killed: it would take
memory and cores, and write into a folder that the next try uses, for nothing. Only Linux can end it
at once; elsewhere just a child whose parent is gone already does not begin.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """From here on the kernel kills this process when the thread that spawned it ends.

    The check of the parent closes the race with one that died before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this one, is gone")
