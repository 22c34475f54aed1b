"""Telling systemd how the agent is: ready, alive, stopping (sd_notify, in ten lines of socket).

Without systemd (a shell, a container, a test) there is no NOTIFY_SOCKET, and everything here does
nothing. A message that cannot be sent is dropped: the service manager draws its own conclusions
from silence, and the agent has work to do.
"""

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

# Of a stop, beside what it waits for.
_REST_S = 30.0


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """``address`` is empty where there is none."""

    address: str = ""
    # It ends the service that is silent for longer; 0: it does not.
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "ServiceManager":
        """From what systemd puts into the environment. The watchdog is for the process that it
        names: a child that inherits the variables must not answer for the agent."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        watchdog_s = int(microseconds) / 1e6 if ours and microseconds.isdigit() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_s)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def ailing(self, status: str) -> None:
        """What `systemctl status` shows while the watchdog is not fed."""
        self._tell(f"STATUS={status}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def still_stopping(self, for_s: float) -> None:
        """It does not end the service before ``for_s`` seconds more, and some for the rest."""
        self._tell(f"EXTEND_TIMEOUT_USEC={round((for_s + _REST_S) * 1e6)}")

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        # An @ stands for the NUL of an abstract socket.
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)
