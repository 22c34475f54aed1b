"""Samples to append: as long as those of a real board, and told apart by their times.

Their noise is more than a board's: some bytes of each nothing can compress.
"""

import random

from protos.nanofleet.v1.telemetry_pb2 import (
    MemorySample,
    PowerSample,
    RailSample,
    TelemetrySample,
    TemperatureSample,
    WorkerSample,
)

BOOT = "8d6c21f0-51a1-4f5c-9d55-000000000001"
NEXT_BOOT = "8d6c21f0-51a1-4f5c-9d55-000000000002"


def sample(number: int, boot_id: str = BOOT) -> TelemetrySample:
    noise = random.Random(number)
    return TelemetrySample(
        boot_id=boot_id,
        boottime_ns=number * 1_000_000_000,
        utc_ns=1_800_000_000_000_000_000 + number,
        memory=MemorySample(total_bytes=7_990_149_120, available_bytes=6_156_636_160),
        temperatures=[
            TemperatureSample(zone=zone, celsius=44.125)
            for zone in ("cpu-thermal", "gpu-thermal", "soc0-thermal", "soc1-thermal", "tj-thermal")
        ],
        power=PowerSample(
            total_mw=2957,
            total_source="VDD_IN",
            rails=[
                RailSample(name=name, power_mw=2957)
                for name in ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
            ],
            energy_j=noise.random(),
        ),
        workers=[
            WorkerSample(
                pid=4321,
                rss_bytes=1_587_000_000,
                job_id="01JD0000000000000000000000",
                loss=noise.random(),
            )
        ],
    )
