"""What another program says of the board: for machines where the kernel's own files are closed."""

from dataclasses import dataclass

from jetson.emc import EmcReading
from jetson.gpu import GpuReading
from jetson.memory import FreeBlock
from jetson.power import PowerReading
from jetson.tegrastats import TegrastatsLine
from jetson.thermal import Temperature


@dataclass(frozen=True, slots=True)
class Observed:
    power: PowerReading | None = None
    temperatures: tuple[Temperature, ...] = ()
    offline_zones: tuple[str, ...] = ()
    gpu: GpuReading | None = None
    emc: EmcReading | None = None
    free_block: FreeBlock | None = None


def of_tegrastats(line: TegrastatsLine) -> Observed:
    clock_mhz = line.emc.frequency_mhz if line.emc else None
    return Observed(
        power=line.power,
        temperatures=tuple(line.temperatures),
        offline_zones=tuple(line.offline_zones),
        gpu=line.gpu,
        emc=None if clock_mhz is None else EmcReading(None, clock_mhz),
        free_block=line.largest_free_block,
    )
