"""Seeds: all bits count, and purposes do not share numbers."""

import torch

from agent.training.seeds import derived


def first_number(seed: int) -> float:
    return torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()


def test_bits_above_the_32nd_make_another_run() -> None:
    seeds = (7, 7 + (1 << 32), 7 + (1 << 63))
    assert len({first_number(derived(seed, "order")) for seed in seeds}) == 3


def test_each_purpose_has_its_own() -> None:
    found = {derived(7, "order", 1, 2), derived(7, "order", 12), derived(7, "adapter")}
    assert len(found) == 3
    assert derived(7, "order", 1, 2) in found
