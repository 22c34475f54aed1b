"""`nanofleet-agent health`: does the agent on this machine serve? For containers and monitors.

It asks the standard health service (grpc.health.v1) with the device's own certificate; without one
nobody is answered.
"""

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent import identity, lock
from protos import status as statuses
from protos.errors import Refused
from protos.transport import channel_options

_TIMEOUT_S = 10.0


async def check(state: Path) -> None:
    """Raises Unreachable when nobody answers, Refused when the agent does not serve (any more)."""
    own = identity.load(state / identity.FOLDER)
    holder = lock.holder(state)
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.chain)
    options = channel_options(own.identity.dns_name)
    async with grpc.aio.secure_channel(holder.address, credentials, options) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            peer = f"the agent on this device ({holder.address})"
            raise statuses.from_rpc_error(error, peer) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise Refused(f"The agent answers, and serves nothing now: {name}.")
