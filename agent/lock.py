"""One agent for a state folder: two would write one journal and start each job twice.

The lock is the kernel's and ends with the process, however it ends; the file's content only tells
others whom to talk to.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.errors import InternalError, InUse, Unreachable

FILE = "agent.lock"
# An agent holds the lock for hours; `status` and `doctor`, which ask for it, for microseconds.
_TRIES, _PAUSE_S = 10, 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    address: str  # where this machine reaches the agent


class StateLock:
    """Held from the constructor to ``close``."""

    def __init__(self, state: Path) -> None:
        self._state = state
        try:
            self._descriptor = os.open(state / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unwritable(state, error) from None
        try:
            if not self._locked():
                raise InUse(
                    f"An agent is running with the state folder {state} already.",
                    fix="Stop it first, or give this one another folder with --state.",
                )
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            os.close(self._descriptor)
            raise _unwritable(state, error) from None
        except InUse:
            os.close(self._descriptor)
            raise

    def _locked(self) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            else:
                return True
        return False

    def tell(self, address: str) -> None:
        """Leaves the address for `nanofleet-agent status`."""
        told = json.dumps(asdict(Holder(os.getpid(), address))).encode()
        try:
            os.pwrite(self._descriptor, told, 0)
        except OSError as error:
            raise _unwritable(self._state, error) from None

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the address only; a disk that broke may keep it
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _unwritable(state: Path, error: OSError) -> InternalError:
    return InternalError(
        f"The state folder {state} cannot be written: {error.strerror}.",
        fix="Check its disk, how it is mounted, and who owns the folder.",
    )


def holder(state: Path) -> Holder:
    """The agent that runs with this state folder; raises Unreachable when none does."""
    try:
        with (state / FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except BlockingIOError:
        return _told(state / FILE)
    raise Unreachable(
        f"No agent is running with the state folder {state}.",
        fix="Start it: `nanofleet-agent run`, or `systemctl start nanofleet-agent`.",
    )


def _told(path: Path) -> Holder:
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise Unreachable("The agent is starting.", fix="Try again in a moment.") from None
