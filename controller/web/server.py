"""Listening: where, for whom, and how it ends.

    SIGTERM, Ctrl-C ──▶ no new connection; what is being answered is answered to its end
    a second one, or after 30 s ──▶ what is still being answered is cut off

Only this machine reaches a loopback address. Any other asks for keys, and for TLS: a key that
crosses a network in the clear is everybody's.
"""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from protos.errors import InUse, InvalidRequest, Refused

GRACE_S = 30
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the chain, and its key."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raises InvalidRequest when they cannot be served with."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key)
        except OSError as error:  # ssl's errors are, too
            raise InvalidRequest(
                f"{self.chain} and {self.key} cannot be used for TLS: {error.strerror or error}.",
                fix="Give a certificate chain and its key, as PEM, with --tls-cert and --tls-key.",
                field="tls-cert",
            ) from error


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_reach(host: str, *, has_keys: bool, has_tls: bool, is_insecure_ok: bool) -> None:
    """Raises Refused when others could come in, or listen, whom nobody has let in."""
    if is_loopback(host):
        return
    if not has_keys:
        raise Refused(
            f"{host} can be reached by others, and no API key was made.",
            why="Whoever reaches it could use every device of the fleet.",
            fix="Make a key first: `nanofleet key add NAME`.",
            reason="NO_KEY",
        )
    if not has_tls and not is_insecure_ok:
        raise Refused(
            f"{host} can be reached by others, and there is no TLS.",
            why="API keys and what is asked would cross the network in the clear.",
            fix="Give --tls-cert and --tls-key, or --insecure-http behind a proxy with TLS.",
            reason="NO_TLS",
        )


def bound(host: str, port: int) -> socket.socket:
    """A socket that will listen there; port 0 takes a free one. InUse when it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol said, asyncio sends what is written at once (TCP_NODELAY); without, a token
    # waits 40 ms for the client's acknowledgement of the one before.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InUse(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.",
            why="Another process holds the port, or the address is not of this machine.",
            fix="Choose another one with --listen, or stop the other process.",
        ) from error
    return listening


class _Server(uvicorn.Server):
    """Says when it listens, and leaves signals to ``serve``."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    certificate: Certificate | None,
    on_ready: Callable[[], None],
) -> None:
    """Returns after a signal, when what was being answered has ended."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        # The application tells of its errors itself; uvicorn would of each that is cut off.
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=certificate.chain if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
    server = _Server(config, on_ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # To the loop's end: one that comes while the rest is closed must not kill.
        loop.add_signal_handler(number, server.end)
    await server.serve([listening])
    for cut_off in (left := [*server.server_state.tasks]):
        cut_off.cancel()
    await asyncio.gather(*left, return_exceptions=True)
