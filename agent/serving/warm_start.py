"""The model that was served last is loaded again when the agent starts, with its adapters.

It takes room that no job wants: nobody waits for it yet. What stands in the way is told as an event
of the device and is no error, and what cannot be loaded is not tried at the next start.
"""

from agent.memory.residents import Tell
from agent.serving.host import ModelHost
from agent.serving.last_served import LastServed
from artifacts.digest import Digest
from protos.errors import NanofleetError, OutOfMemory
from protos.nanofleet.v1.device_pb2 import DeviceEvent
from protos.nanofleet.v1.inference_pb2 import PRIORITY_LOW, GenerateRequest

_LEFT_OUT = "leave out the warm start"
_MAY_BE_THE_CAUSE = "The last start ended while it was being loaded, so it is not loaded by itself."


async def warm_start(host: ModelHost, last: LastServed, tell: Tell) -> None:
    served = await last.read()
    if served is None:
        return
    base = served.base_digest
    if served.is_opening:
        await tell(DeviceEvent(act=_LEFT_OUT, reason=_MAY_BE_THE_CAUSE, base_digest=base))
        return
    try:
        if not await host.load_for_nobody(base, served.context_length):
            return  # a request was faster
    except NanofleetError as error:
        if not isinstance(error, OutOfMemory):  # there may be room at the next start
            await last.forget()
        await tell(DeviceEvent(act=_LEFT_OUT, reason=str(error), base_digest=base))
        return
    for adapter in served.adapter_digests:
        try:
            await _put_on(host, base, adapter)
        except NanofleetError as error:
            await last.unusable(adapter)
            await tell(
                DeviceEvent(
                    act=_LEFT_OUT, reason=str(error), base_digest=base, adapter_digest=adapter
                )
            )


async def _put_on(host: ModelHost, base: Digest, adapter: Digest) -> None:
    """For one token: the engine has it loaded then."""
    request = GenerateRequest(
        base_digest=base, adapter_digest=adapter, prompt=".", max_tokens=1, priority=PRIORITY_LOW
    )
    async for _ in host.generate(request):
        pass
