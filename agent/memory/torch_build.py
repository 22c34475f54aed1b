"""Which build of torch the workers will load, found without loading it.

One with CUDA registers the kernels of its GPU libraries when it is imported, and takes more memory
for that even where there is no GPU. An index of packages gives this build on x86 unless it is told
otherwise.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """What a process that imports it takes beyond what it does with the build without CUDA."""

    anonymous_bytes: int = 0
    # Of the libraries' pages: once they are loaded, and of what is read again where
    # agent.training.libraries has let them go.
    loading_bytes: int = 0
    libraries_bytes: int = 0


CPU = TorchBuild()
# 140 to 147 MB anonymous, and 156 (the trainer) to 233 MB of pages (the server of Transformers).
# Measured like the constants of forecast.py: torch 2.13 for CUDA 13, on a machine without a GPU.
CUDA = TorchBuild(150 * _MB, 200 * _MB, 20 * _MB)

_CUDA_LIBRARY = Path("lib", "libtorch_cuda.so")


def installed() -> TorchBuild:
    """The one that this interpreter would import; as without CUDA where there is none."""
    found = importlib.util.find_spec("torch")
    folders = found.submodule_search_locations if found else None
    return CUDA if any(Path(folder, _CUDA_LIBRARY).exists() for folder in folders or ()) else CPU
