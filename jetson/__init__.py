"""The board: who it is, and what its sensors say. Every function takes the root of a file tree.

What cannot be read is None or missing from the result, never zero and never an error.
"""

from jetson.board import Board, identify
from jetson.clocks import read_clocks, read_power_mode
from jetson.emc import read_emc
from jetson.gpu import read_gpu
from jetson.memory import read_free_block, read_memory, read_pressure_percent, read_zram
from jetson.power import read_power
from jetson.tegrastats import parse_tegrastats
from jetson.thermal import read_heat, read_temperatures, read_zones
from jetson.throttling import read_over_current

__all__ = [
    "Board",
    "identify",
    "parse_tegrastats",
    "read_clocks",
    "read_emc",
    "read_free_block",
    "read_gpu",
    "read_heat",
    "read_memory",
    "read_over_current",
    "read_power",
    "read_power_mode",
    "read_pressure_percent",
    "read_temperatures",
    "read_zones",
    "read_zram",
]
