"""In which data type the frozen products are computed: bfloat16 where the processor has it.

With bfloat16 units the products are several times faster than in float32; without, they are
emulated and slower. So the processor must say that it has them, and a product of a 1B model's size
must show it: not every build of torch uses them. Activations and adapters stay in float32.

A GPU has bfloat16 units from compute capability 8 on (Orin); before, float32 it is.

The choice of two attempts must not hang on what else the board was doing, so the race is not close
(native units win by a factor of two to five), and the first attempt's choice is in the checkpoint.
"""

import time
from pathlib import Path

import torch

from agent.memory.processor import CPU, FLOAT32_BYTES, least_element_bytes
from agent.training.device import GPU, PROCESSOR

# The compute capability of GPUs that have them.
_BFLOAT16_UNITS = (8, 0)
_TOKENS, _WIDTH = 256, 1152
_REPEATS = 8
_WORTH_IT = 1.5

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
TYPES = {name: data_type for data_type, name in NAMES.items()}


def choose(width: int, device: torch.device = PROCESSOR, cpu: Path = CPU) -> torch.dtype:
    """For a model with hidden states of this width. Takes about 0.1 s."""
    if device.type == GPU.type:
        native = torch.cuda.get_device_capability(device) >= _BFLOAT16_UNITS
        return torch.bfloat16 if native else torch.float32
    if least_element_bytes(width, cpu) == FLOAT32_BYTES:
        return torch.float32
    faster = _best_s(torch.float32) > _WORTH_IT * _best_s(torch.bfloat16)
    return torch.bfloat16 if faster else torch.float32


def _best_s(data_type: torch.dtype) -> float:
    hidden = torch.zeros(_TOKENS, _WIDTH, dtype=data_type)
    weight = torch.zeros(_WIDTH, _WIDTH, dtype=data_type)
    best_s = float("inf")
    for _ in range(_REPEATS):
        start_s = time.perf_counter()
        torch.nn.functional.linear(hidden, weight)
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s
