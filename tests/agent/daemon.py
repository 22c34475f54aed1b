"""A real agent process on loopback, and channels to it as any role."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from protos.identity import Identity, Role
from protos.nanofleet.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    device_pb2_grpc,
    inference_pb2_grpc,
    job_pb2_grpc,
)
from protos.transport import CHUNK_BYTES, channel_options
from tests.agent.authority import Authority

ROOT = Path(__file__).parents[2]
NAME = "kitchen"
_READY = re.compile(r"nanofleet-agent \S+ ready: (\S+) on \S+:(\d+)")


class Daemon:
    """One state folder, and the agent that runs with it."""

    def __init__(self, state: Path, authority: Authority) -> None:
        self.state = state
        self.authority = authority
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        authority.issue(Role.DEVICE, NAME).write(state / "identity")
        self.write_config()

    def write_config(self, text: str = "") -> None:
        """No reserve: the tests' models are tiny, the machine that runs them may be full."""
        small = "[artifacts]\nreserve_mib = 1\n[telemetry]\nring_mib = 1\nperiod_s = 0.2\n"
        (self.state / "agent.toml").write_text(small + text)

    def start(self, *arguments: str) -> None:
        """Returns when it is ready."""
        self._process = self.run("run", "--host", "127.0.0.1", "--port", "0", *arguments)
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if match := _READY.match(line):
                assert match[1] == NAME
                self.port = int(match[2])
                return
        raise AssertionError(f"the agent did not become ready: {said}")

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        """Any command of nanofleet-agent with this state folder."""
        command = [sys.executable, "-m", "agent.cli", arguments[0], "--state", str(self.state)]
        return subprocess.Popen(
            [*command, *arguments[1:]],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """An orderly end; returns what it logged after it was ready."""
        return self._end(number)

    def _end(self, number: signal.Signals) -> str:
        if self._process is None:
            return ""
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            said, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired as error:
            process.kill()
            said, _ = process.communicate()
            raise AssertionError(f"the agent did not end by itself: {said}") from error
        if number != signal.SIGKILL:
            assert process.returncode == 0, said
        return said

    @asynccontextmanager
    async def channel(
        self,
        role: Role = Role.CONTROLLER,
        name: str = "controller",
        *,
        authority: Authority | None = None,
    ) -> AsyncIterator[grpc.aio.Channel]:
        """A channel with a certificate of the role; by another authority: of a stranger."""
        issued = (authority or self.authority).issue(role, name)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, issued.key, issued.chain)
        options = channel_options(Identity(Role.DEVICE, NAME).dns_name)
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{self.port}", credentials, options
        ) as channel:
            yield channel

    @asynccontextmanager
    async def stubs(self) -> AsyncIterator["Stubs"]:
        async with self.channel() as channel:
            yield Stubs(channel)


class Stubs:
    """The services as a controller sees them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.device = device_pb2_grpc.DeviceServiceStub(channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(channel)
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)

    async def put(
        self, digest: str, data: bytes, kind: "artifact_pb2.ArtifactKind.ValueType", offset: int = 0
    ) -> artifact_pb2.Artifact:
        response = await self.artifacts.PutArtifact(uploaded(digest, data, kind, offset))
        return response.artifact

    async def get(self, digest: str, offset: int = 0) -> bytes:
        request = artifact_pb2.GetArtifactRequest(digest=digest, offset=offset)
        chunks = [response.chunk async for response in self.artifacts.GetArtifact(request)]
        assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)
        return b"".join(chunks)


async def uploaded(
    digest: str, data: bytes, kind: "artifact_pb2.ArtifactKind.ValueType", offset: int = 0
) -> AsyncIterator[artifact_pb2.PutArtifactRequest]:
    """The messages of an upload."""
    yield artifact_pb2.PutArtifactRequest(
        header=artifact_pb2.PutArtifactHeader(
            digest=digest, size_bytes=len(data), kind=kind, offset=offset
        )
    )
    for begin in range(offset, len(data), CHUNK_BYTES):
        yield artifact_pb2.PutArtifactRequest(chunk=data[begin : begin + CHUNK_BYTES])
        await asyncio.sleep(0)
