"""`nanofleet-agent status`: what the agent on this machine is and does.

It asks the running agent, over the same service as the controller, with the device's own
certificate: what is shown is what others see.
"""

from collections.abc import Sequence
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict

from agent import identity, lock
from artifacts.digest import Digest, short
from protos import status as statuses
from protos.nanofleet.v1 import device_pb2_grpc, job_pb2, job_pb2_grpc
from protos.nanofleet.v1.device_pb2 import Device, GetDeviceRequest
from protos.transport import channel_options

_TIMEOUT_S = 10.0
_SHOWN_JOBS = 10
_MB = 1_000_000


async def ask(state: Path) -> tuple[Device, Sequence[job_pb2.Job]]:
    """The device and its newest jobs; raises Unreachable when no agent runs."""
    own = identity.load(state / identity.FOLDER)
    holder = lock.holder(state)
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.chain)
    options = channel_options(own.identity.dns_name)
    async with grpc.aio.secure_channel(holder.address, credentials, options) as channel:
        try:
            device = await device_pb2_grpc.DeviceServiceStub(channel).GetDevice(
                GetDeviceRequest(), timeout=_TIMEOUT_S
            )
            jobs = await job_pb2_grpc.JobServiceStub(channel).ListJobs(
                job_pb2.ListJobsRequest(limit=_SHOWN_JOBS), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            peer = f"the agent on this device ({holder.address})"
            raise statuses.from_rpc_error(error, peer) from None
    return device.device, jobs.jobs


def as_plain(device: Device, jobs: Sequence[job_pb2.Job]) -> dict[str, object]:
    return {
        "device": MessageToDict(device, preserving_proto_field_name=True),
        "jobs": [MessageToDict(job, preserving_proto_field_name=True) for job in jobs],
    }


def as_text(device: Device, jobs: Sequence[job_pb2.Job]) -> str:
    loaded = device.loaded_model
    rows = [
        ("device", f"{device.name}, agent {device.agent_version}"),
        ("board", ", ".join(filter(None, (device.board.model, device.board.architecture,
                                          device.board.simulated and "simulated")))),
        ("memory", f"{device.memory_budget_bytes // _MB:,} MB for workers"),
        ("disk", f"{device.storage.free_bytes // _MB:,} MB free,"
                 f" {device.storage.artifacts_bytes // _MB:,} MB of artifacts"),
        ("model", f"{short(Digest(loaded.base_digest))}, context {loaded.context_length}"
                  if loaded.base_digest else "none loaded"),
        ("jobs", f"{device.active_jobs} active"),
    ]  # fmt: skip
    return "\n".join([*(f"{name:<8}{value}" for name, value in rows), *map(_job, jobs)])


def _job(job: job_pb2.Job) -> str:
    state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
    steps = f"  {job.progress.step}/{job.progress.total_steps}" if job.progress.step else ""
    if job.generating.prompts:
        steps = f"  {job.generating.prompts}/{job.generating.total_prompts}"
    return f"  {job.id}  {state:<10}{job.spec.name}{steps}"
