"""The enrolment service on the network.

Two doors, because gRPC asks every client of a port for a certificate, or none of them. A device
that joins has none yet: the first door identifies only the server, and presents the authority's
certificate with its own, so that the device can check it against its token's pin before it sends
the secret. A device that renews comes in by the second door, one port higher, with mTLS.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

import grpc
from async_timeout import timeout

from controller import tokens
from controller.authority import Authority, Issued
from controller.enrolment import Enrolment
from controller.records import DeviceRecord
from controller.store import Store
from controller.store import devices as stored_devices
from protos import status, transport
from protos.errors import Forbidden, InUse, NanofleetError, NotFound, TimedOut, Unauthenticated
from protos.identity import Role, parse_uri
from protos.nanofleet.v1 import enrolment_pb2, enrolment_pb2_grpc

Context = grpc.aio.ServicerContext[object, object]

# How long a call that is being answered may take to end when the service stops.
_GRACE_S = 2.0


class _Servicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """The network's side of Enrolment."""

    def __init__(self, enrolment: Enrolment, joined: Callable[[str], None]) -> None:
        self._enrolment = enrolment
        self._joined = joined

    async def Join(  # noqa: N802 (the contract's name)
        self, request: enrolment_pb2.JoinRequest, context: Context
    ) -> enrolment_pb2.JoinResponse:
        try:
            address = _reachable(request.agent_address, context.peer())
            response = self._enrolment.join(request, address)
        except NanofleetError as error:
            await status.abort(context, error)
            raise
        self._joined(response.device_name)
        return response

    async def RenewCertificate(  # noqa: N802
        self, request: enrolment_pb2.RenewCertificateRequest, context: Context
    ) -> enrolment_pb2.RenewCertificateResponse:
        try:
            name, dns_names = _device(context)
            return self._enrolment.renew(request, name, dns_names)
        except NanofleetError as error:
            await status.abort(context, error)
            raise


def _reachable(claimed: str, peer: str) -> str:
    """The agent's address; an empty host is the one that the call comes from."""
    host, port = tokens.split_address(claimed, "agent_address")
    return f"{host or _peer_host(peer)}:{port}"


def _peer_host(peer: str) -> str:
    """The host of gRPC's "ipv4:10.0.0.7:41234" or "ipv6:%5B::1%5D:41234"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0]


def _device(context: Context) -> tuple[str, set[str]]:
    """Name and DNS names of the device that calls; raises when it is none."""
    peer = context.auth_context()
    uris = [value.decode() for value in peer.get("peer_uri", ())]
    identity = parse_uri(uris[0]) if len(uris) == 1 else None
    if identity is None:
        raise Unauthenticated(
            "A certificate is renewed over a connection that it secures.",
            why="This connection carries none of this fleet.",
            fix="Call the renewal port, one above the enrolment port, with the certificate.",
        )
    if identity.role is not Role.DEVICE:
        raise Forbidden(f"Only devices renew here, and this is a {identity.role.value}.")
    return identity.name, {value.decode() for value in peer.get("peer_dns", ())}


class EnrolmentServer:
    """A running enrolment service. ``address`` is where devices reach it, for tokens."""

    def __init__(self, store: Store, address: str, renewal_address: str) -> None:
        self.address = address
        self.renewal_address = renewal_address
        self._store = store
        self._arrivals: dict[str, asyncio.Event] = {}

    async def joined(self, name: str, timeout_s: float | None = None) -> DeviceRecord:
        """The device's record once it has joined here; TimedOut when it does not in time."""
        try:
            async with timeout(timeout_s):
                await self._arrival(name).wait()
        except asyncio.TimeoutError as error:
            raise TimedOut(
                f"{name} has not joined within {timeout_s:.0f} s.",
                fix=f"Run `nanofleet-agent join TOKEN` on it; it must reach {self.address}.",
            ) from error
        with self._store.read() as transaction:
            record = stored_devices.find(transaction, name)
        if record is None:
            raise NotFound(f"{name} has joined, and was removed.")
        return record

    def _arrived(self, name: str) -> None:
        self._arrival(name).set()

    def _arrival(self, name: str) -> asyncio.Event:
        return self._arrivals.setdefault(name, asyncio.Event())


@contextlib.asynccontextmanager
async def serving(
    store: Store, authority: Authority, own: Issued, host: str, port: int
) -> AsyncIterator[EnrolmentServer]:
    """Serves both doors until the block ends. Port 0 takes free ones. InUse when one is taken."""
    pairs = [(own.key, own.chain)]
    root = authority.certificate
    server = grpc.aio.server(options=transport.server_options())
    join_port = _listen(server, host, port, grpc.ssl_server_credentials(pairs))
    renewal_port = _listen(
        server,
        host,
        port + 1 if port else 0,
        grpc.ssl_server_credentials(pairs, root, require_client_auth=True),
    )
    advertised = _advertised(host)
    running = EnrolmentServer(store, f"{advertised}:{join_port}", f"{advertised}:{renewal_port}")
    servicer = _Servicer(Enrolment(store, authority), running._arrived)
    enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(servicer, server)
    await server.start()
    try:
        yield running
    finally:
        await server.stop(_GRACE_S)


def _listen(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials
) -> int:
    try:
        return server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError as error:
        raise InUse(
            f"Cannot listen on {host}:{port}.",
            why="Another process holds the port, or the address is not of this machine.",
            fix="Choose another one with --port, or stop the other process.",
        ) from error


def _advertised(host: str) -> str:
    """``host``, or for "all interfaces" the address by which this machine reaches others."""
    if host not in {"0.0.0.0", "[::]", ""}:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only chooses the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
