"""The build is told from its files: nothing of it is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

FIND = "from agent.memory import torch_build; print(torch_build.installed() is torch_build.CUDA)"


@pytest.mark.parametrize("has_cuda", [False, True])
def test_the_build_is_told_from_its_files(tmp_path: Path, has_cuda: bool) -> None:
    libraries = tmp_path / "torch" / "lib"
    libraries.mkdir(parents=True)
    (libraries.parent / "__init__.py").write_text("raise AssertionError('imported')")
    if has_cuda:
        (libraries / "libtorch_cuda.so").touch()
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {FIND}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(has_cuda)
