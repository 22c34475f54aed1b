"""The agent's gRPC server: mutual TLS, one port, every service, and nothing without an identity.

Certificates are looked at on each handshake and read again when their files have changed, so that
a renewed certificate is used without a restart.
"""

import errno
import logging
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent import identity
from agent.config import Listen
from agent.rpc.access import Access
from protos.errors import InUse, InvalidRequest, NanofleetError
from protos.nanofleet.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
)
from protos.transport import server_options

_LOG = logging.getLogger(__name__)

SERVICES = (
    *(f"nanofleet.v1.{name}" for name in device_pb2.DESCRIPTOR.services_by_name),
    *(f"nanofleet.v1.{name}" for name in artifact_pb2.DESCRIPTOR.services_by_name),
    *(f"nanofleet.v1.{name}" for name in job_pb2.DESCRIPTOR.services_by_name),
    *(f"nanofleet.v1.{name}" for name in inference_pb2.DESCRIPTOR.services_by_name),
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


@dataclass(frozen=True, slots=True)
class Servicers:
    device: device_pb2_grpc.DeviceServiceServicer
    artifacts: artifact_pb2_grpc.ArtifactServiceServicer
    jobs: job_pb2_grpc.JobServiceServicer
    inference: inference_pb2_grpc.InferenceServiceServicer


class Server:
    """Make it in the running loop: gRPC binds its objects to it."""

    def __init__(self, servicers: Servicers, credentials: identity.Credentials, folder: Path):
        self._credentials = _Certificates(folder, credentials).credentials()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            # For the synchronous handlers of the reflection service alone.
            migration_thread_pool=ThreadPoolExecutor(1, thread_name_prefix="reflection"),
            interceptors=[Access(credentials.identity.name)],
            options=server_options(),
        )
        device_pb2_grpc.add_DeviceServiceServicer_to_server(servicers.device, self._server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(servicers.artifacts, self._server)
        job_pb2_grpc.add_JobServiceServicer_to_server(servicers.jobs, self._server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicers.inference, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(SERVICES, self._server)

    async def start(self, listen: Listen) -> int:
        """Listens; returns the port. Raises InUse when it is taken."""
        try:
            port = self._server.add_secure_port(f"{listen.host}:{listen.port}", self._credentials)
        except RuntimeError:
            raise _why_not(listen) from None
        await self._server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls; those under way may end by themselves for so long."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


class _Certificates:
    """The certificates as gRPC asks for them, in a thread of its own, on each handshake."""

    def __init__(self, folder: Path, credentials: identity.Credentials) -> None:
        self._folder = folder
        self._initial = credentials
        self._seen = self._stamp()

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._initial),
            self._changed,  # type: ignore[arg-type]  # the stubs lack the None for "unchanged"
            require_client_authentication=True,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        try:
            fresh = identity.load(self._folder)
        except (NanofleetError, OSError) as error:
            _LOG.warning("the certificates cannot be read again: %s", error)
            return None
        self._seen = stamp
        return _configuration(fresh)

    def _stamp(self) -> Sequence[int]:
        try:
            return [
                (self._folder / name).stat().st_mtime_ns
                for name in (identity.KEY, identity.CHAIN, identity.AUTHORITY)
            ]
        except OSError:
            return []


def _configuration(credentials: identity.Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.chain)], credentials.authority
    )


def _why_not(listen: Listen) -> NanofleetError:
    """gRPC says only that it could not bind; the same attempt with a plain socket says why."""
    where = f"{listen.host}:{listen.port}"
    try:
        found = socket.getaddrinfo(listen.host.strip("[]"), listen.port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
            probe.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return InvalidRequest(f"Cannot listen on {where}: {error.strerror}.", field="listen")
    return InUse(
        f"Port {listen.port} is taken by another program.",
        why="Perhaps an agent is running on this device already.",
        fix="Stop that program, or choose another port: `nanofleet-agent run --port PORT`.",
        reason="PORT_IN_USE",
    )
