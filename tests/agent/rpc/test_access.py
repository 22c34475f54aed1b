"""Every method that the agent serves, found through its descriptors, against every role."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from agent.rpc.access import CHANGE, MOST_CALLS, READ, TABLE, Access
from agent.rpc.server import SERVICES
from protos import status
from protos.errors import Busy, Forbidden, NanofleetError, Unreachable
from protos.identity import Identity, Role
from protos.nanofleet.v1 import artifact_pb2, device_pb2, inference_pb2, job_pb2, job_pb2_grpc
from tests.agent.authority import Authority
from tests.agent.daemon import NAME, Daemon

FILES = (device_pb2, artifact_pb2, job_pb2, inference_pb2)
METHODS = sorted(
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
READING = {
    "GetDevice", "WatchTelemetry", "StatArtifact", "ListArtifacts", "GetJob", "ListJobs",
    "WatchJob", "ListAdapters", "ListEvents",
}  # fmt: skip


def test_the_table_has_every_method_and_no_other() -> None:
    ours = {method for method in TABLE if method.startswith("/nanofleet.v1.")}
    assert ours == set(METHODS)
    served = {method.split("/")[1] for method in TABLE}
    assert served == set(SERVICES)


@pytest.mark.parametrize("method", METHODS)
def test_who_may_only_look_cannot_change(method: str) -> None:
    assert TABLE[method] == (READ if method.rpartition("/")[2] in READING else CHANGE)


async def called(channel: grpc.aio.Channel, method: str) -> NanofleetError | None:
    """What a call with an empty request ends with. The first answer of a stream is enough."""
    file = next(f for f in FILES if method.split("/")[1].rpartition(".")[2] in
                f.DESCRIPTOR.services_by_name)  # fmt: skip
    name = method.rpartition("/")[2]
    streams_in = name == "PutArtifact"
    try:
        if name in ("WatchJob", "WatchTelemetry", "GetArtifact", "Generate"):
            await channel.unary_stream(method)(b"", timeout=10).read()
        elif streams_in:
            await channel.stream_unary(method)(iter([b""]), timeout=10)
        else:
            await channel.unary_unary(method)(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return status.from_rpc_error(error, file.__name__)
    return None


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (Role.VIEWER, "ann"),
        (Role.OPERATOR, "bob"),
        (Role.CONTROLLER, "controller"),
        (Role.DEVICE, NAME),
        (Role.DEVICE, "cellar"),
    ],
)
async def test_every_role_at_every_method(shared_daemon: Daemon, role: Role, name: str) -> None:
    async with shared_daemon.channel(role, name) as channel:
        for method in METHODS:
            allowed = role in TABLE[method] or (name == NAME and TABLE[method] is READ)
            error = await called(channel, method)
            assert isinstance(error, Forbidden) != allowed, (method, error)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.CONTROLLER])
async def test_only_the_controller_says_that_events_are_copied(
    shared_daemon: Daemon, role: Role
) -> None:
    """Whoever looks on from some number must not make the device forget what came before."""
    request = job_pb2.WatchJobRequest(after_seq=5, replay_only=True, acknowledge=True)
    async with shared_daemon.channel(role, "ann") as channel:
        watching = job_pb2_grpc.JobServiceStub(channel).WatchJob(request)
        if role is Role.CONTROLLER:
            assert (await watching.read()).journal_id
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.read()
    refused = status.from_rpc_error(caught.value, "")
    assert isinstance(refused, Forbidden)
    assert f"{role.value} ann may not acknowledge events." in str(refused)


async def test_a_device_with_too_many_calls_says_when_to_come_back(shared_daemon: Daemon) -> None:
    """Three connections, because one holds a hundred calls."""
    async with AsyncExitStack() as stack:
        names = ("one", "two", "three")
        controllers = [shared_daemon.channel(Role.CONTROLLER, name) for name in names]
        channels = [await stack.enter_async_context(channel) for channel in controllers]
        watching = [
            job_pb2_grpc.JobServiceStub(channels[number % 3]).WatchJob(job_pb2.WatchJobRequest())
            for number in range(MOST_CALLS)
        ]
        await asyncio.gather(*(call.read() for call in watching))
        error = await called(channels[0], "/nanofleet.v1.DeviceService/GetDevice")
        assert isinstance(error, Busy)
        assert error.retry_after_s == 2.0
        watching[0].cancel()
        await it_has_room(channels[0])


async def it_has_room(channel: grpc.aio.Channel) -> None:
    """The device hears of a cancelled call a moment later."""
    while await called(channel, "/nanofleet.v1.DeviceService/GetDevice") is not None:
        pass


async def test_a_method_that_nobody_knows_is_refused(shared_daemon: Daemon) -> None:
    async with shared_daemon.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/nanofleet.v1.JobService/EraseEverything")(b"")
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_stranger_is_not_even_heard(shared_daemon: Daemon) -> None:
    async with shared_daemon.channel(authority=Authority()) as channel:
        error = await called(channel, "/nanofleet.v1.DeviceService/GetDevice")
    assert isinstance(error, Unreachable)


def test_an_identity_without_a_role_in_the_table_is_refused() -> None:
    access = Access(NAME)
    with pytest.raises(Forbidden) as caught:
        access.check("/nanofleet.v1.JobService/SubmitJob", Identity(Role.VIEWER, "ann"))
    assert "viewer ann may not call SubmitJob" in str(caught.value)
    assert "controller or operator" in str(caught.value)


async def test_what_the_agent_serves_can_be_looked_up(shared_daemon: Daemon) -> None:
    """Reflection, as grpcurl uses it, and the health service."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with shared_daemon.channel(Role.VIEWER, "ann") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(
            health_pb2.HealthCheckRequest(service="nanofleet.v1.JobService")
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    issued = shared_daemon.authority.issue(Role.VIEWER, "ann")
    credentials = grpc.ssl_channel_credentials(
        shared_daemon.authority.pem, issued.key, issued.chain
    )
    options = (("grpc.ssl_target_name_override", Identity(Role.DEVICE, NAME).dns_name),)
    target = f"127.0.0.1:{shared_daemon.port}"
    with grpc.secure_channel(target, credentials, options) as plain:
        database = ProtoReflectionDescriptorDatabase(plain)
        assert set(database.get_services()) == set(SERVICES)
        pool = DescriptorPool(database)
        found = pool.FindServiceByName("nanofleet.v1.JobService")
        assert {method.name for method in found.methods} >= {"SubmitJob", "WatchJob"}
