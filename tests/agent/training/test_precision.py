"""float32 unless the processor has bfloat16 and shows it."""

from pathlib import Path

import pytest
import torch

from agent.training import precision


@pytest.mark.parametrize(
    ("flags", "width"),
    [
        # Emulated on all of these, whatever a race would say.
        ("flags : fpu avx2 fma", 1152),
        ("flags : fpu avx512f avx512_vnni", 1152),
        ("Features : fp asimd evtstrm aes pmull sha1", 1152),
        # Too narrow to gain.
        ("flags : avx512_bf16", 128),
    ],
)
def test_float32_without_a_race(tmp_path: Path, flags: str, width: int) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(f"processor : 0\n{flags}\n")
    assert precision.choose(width, cpu=cpu) is torch.float32


@pytest.mark.parametrize("flags", ["flags : avx512_bf16 x", "Features : asimd i8mm bf16"])
def test_a_race_where_the_processor_claims_it(tmp_path: Path, flags: str) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(flags)
    assert precision.choose(1152, cpu=cpu) in precision.NAMES
