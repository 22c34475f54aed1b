"""Where a training computes: on the GPU where torch has one that computes right, else here.

A torch that finds a GPU does not always have code for it: wheels leave out the architectures of
some boards, and ports of old CUDA versions have computed wrong numbers without an error. So the GPU
does a small sum of what training needs, and is used when the processor comes to the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PROCESSOR = torch.device("cpu")
GPU = torch.device("cuda")
# Instead of a name: whichever is best.
AUTOMATIC = ""

_WIDTH = 96
# Of float32 sums of so many products, in whatever order they are added, TF32 included.
_TOLERANCE = 5e-3


@dataclass(frozen=True, slots=True)
class Choice:
    """``why`` is a sentence for the log."""

    device: torch.device
    why: str


def choose(asked: str = AUTOMATIC) -> Choice:
    """``asked``: "cpu", "cuda" or automatic. A GPU that was asked for and cannot be used is not."""
    if asked == PROCESSOR.type:
        return Choice(PROCESSOR, "Training on the processor, as asked.")
    if not torch.cuda.is_available():
        return Choice(PROCESSOR, "Training on the processor: torch finds no GPU.")
    try:
        off = difference(GPU)
        name = torch.cuda.get_device_name(GPU)
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        return Choice(PROCESSOR, f"Training on the processor: the GPU fails its test ({first}).")
    if not off <= _TOLERANCE:
        why = f"Training on the processor: the GPU computes wrong (by {off:.2g})."
        return Choice(PROCESSOR, why)
    return Choice(GPU, f"Training on the GPU, {name}.")


def shares_memory(device: torch.device) -> bool:
    """Whether it is a GPU without a memory of its own, as every Jetson's."""
    if device.type != GPU.type:
        return False
    return bool(torch.cuda.get_device_properties(device).is_integrated)


def peak_bytes(device: torch.device) -> int:
    """The most that torch has taken on the GPU; 0 on the processor, where the kernel counts."""
    return torch.cuda.max_memory_reserved(device) if device.type == GPU.type else 0


def difference(device: torch.device) -> float:
    """Of ``device`` from the processor, relative; NaN when it has no numbers."""
    expected, found = _sum(PROCESSOR), _sum(device).to(PROCESSOR)
    return float((found - expected).norm() / expected.norm())


def _sum(device: torch.device) -> Tensor:
    """Products, softmax, activation and a gather, of numbers that are the same everywhere."""
    ramp = torch.arange(_WIDTH * _WIDTH).view(_WIDTH, _WIDTH)
    x = ((ramp * 37 % 101) / 50 - 1).to(device)
    weight = (ramp * 53 % 255 - 127).to(torch.int8).to(device).float().mul_(1 / 127)
    weights = torch.softmax(torch.mm(x, weight.t()), -1)
    active = torch.nn.functional.gelu(torch.mm(weights, x), approximate="tanh")
    rows = torch.arange(_WIDTH - 1, -1, -1).to(device)
    return torch.addmm(active, active[rows], weight)
