"""The rows of ``top``, kept up to date: one telemetry stream and one task for each device.

A device that stops answering shows why, and its stream is opened again.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from async_timeout import timeout

from controller.cli import fleet_view, follow
from controller.cli.fleet_view import Activity, Row
from protos.errors import NanofleetError
from protos.nanofleet.v1 import telemetry_pb2

if TYPE_CHECKING:
    from controller import Fleet

# A sample comes each second; a device that is silent for longer is slow or gone.
_FIRST_SAMPLE_S = 5.0
# Names of jobs that were submitted elsewhere, or after the start, are learnt this often.
_NAMES_EVERY_S = 5.0


class FleetBoard:
    """The rows of all devices, kept up to date by one task each."""

    def __init__(self, fleet: "Fleet", devices: list[str]) -> None:
        self._fleet = fleet
        self._rows = {device: Row(device) for device in devices}
        self._heard = {device: asyncio.Event() for device in devices}
        self._names: dict[str, str] = {}
        self._names_until_s = 0.0

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def headline(self) -> str:
        return fleet_view.headline(self._fleet.name, self.rows)

    async def run(self) -> None:
        """Keeps the rows for ever."""
        await asyncio.gather(*(self._keep(device) for device in self._rows))

    async def settled(self) -> list[Row]:
        """The rows once every device has said something, or has had time to."""
        keeping = asyncio.create_task(self.run(), name="telemetry of the fleet")
        heard = asyncio.gather(*(event.wait() for event in self._heard.values()))
        try:
            async with timeout(_FIRST_SAMPLE_S):
                await heard
        except asyncio.TimeoutError:
            self._give_up_on_the_silent()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        return self.rows

    async def _keep(self, device: str) -> None:
        def lost(error: NanofleetError) -> None:
            self._rows[device] = fleet_view.unreachable(self._rows[device], error.what)
            self._heard[device].set()

        async for sample in follow.samples(self._fleet, device, lost):
            self._rows[device] = fleet_view.row_of(device, sample, self._job_names(sample))
            self._heard[device].set()

    def _give_up_on_the_silent(self) -> None:
        for device, row in self._rows.items():
            if row.activity is Activity.CONNECTING:
                said = f"No answer within {_FIRST_SAMPLE_S:.0f} s."
                self._rows[device] = fleet_view.unreachable(row, said)

    def _job_names(self, sample: telemetry_pb2.TelemetrySample) -> dict[str, str]:
        unknown = any(w.job_id and w.job_id not in self._names for w in sample.workers)
        if unknown and time.monotonic() >= self._names_until_s:
            self._names = {job.id: job.name for job in self._fleet.jobs()}
            self._names_until_s = time.monotonic() + _NAMES_EVERY_S
        return self._names
