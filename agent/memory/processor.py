"""Which data type the processor could compute the frozen products in, asked without torch.

With bfloat16 units the products are several times faster than in float32, and take half the memory;
without, they are emulated and slower. So the processor must say that it has them. Whether torch
makes use of them is measured by the worker (agent/training/precision.py): here is what it may find.
"""

import re
from pathlib import Path

CPU = Path("/proc/cpuinfo")
FLOAT32_BYTES = 4
BFLOAT16_BYTES = 2

# x86's and Arm's words for it in /proc/cpuinfo.
_NATIVE = re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")
# Narrower models spend their time around the products.
_LEAST_WIDTH = 512


def least_element_bytes(width: int, cpu: Path = CPU) -> int:
    """Of the frozen products, for a model with hidden states of this width."""
    if width < _LEAST_WIDTH or _NATIVE.search(cpu.read_text()) is None:
        return FLOAT32_BYTES
    return BFLOAT16_BYTES
