"""The telemetry of one device, across broken links: sequence numbers close the gaps."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from controller.device import DeviceConnection
from controller.retry import STEADY, Retry
from protos.errors import NanofleetError
from protos.nanofleet.v1 import device_pb2, telemetry_pb2


async def follow(
    connection: DeviceConnection, *, from_oldest: bool, retry: Retry = STEADY
) -> AsyncGenerator[telemetry_pb2.TelemetrySample, None]:
    """Samples in order. A link that breaks is made anew behind the last sample; one that was never
    made raises at once.
    """
    request = device_pb2.WatchTelemetryRequest(live_only=not from_oldest)
    failures = 0
    while True:
        try:
            stream = connection.stream(connection.devices.WatchTelemetry, request)
            async with aclosing(stream):
                async for response in stream:
                    for sample in response.samples:
                        failures = 0
                        request = device_pb2.WatchTelemetryRequest(after_seq=sample.seq)
                        yield sample
            return
        except NanofleetError as error:
            if not request.after_seq:
                raise
            failures += 1
            await retry.pause(failures, error)
