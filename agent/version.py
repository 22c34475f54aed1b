"""The agent's version, and those of its engines, without importing any of them.

``importlib.metadata`` would do, and brings a megabyte of mail parser into a process that has forty;
the names of the installed folders say the same.
"""

import sys
from pathlib import Path

from protos.nanofleet.v1.device_pb2 import Engine

VERSION = "0.1.0"
_ENGINES = {
    "llama": "llama_cpp_python",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "transformers": "transformers",
}


def engines() -> list[Engine]:
    """The engines that the agent's interpreter has installed."""
    found = ((name, _installed(package)) for name, package in _ENGINES.items())
    return [Engine(name=name, version=version) for name, version in found if version]


def _installed(package: str) -> str:
    for folder in map(Path, sys.path):
        for info in folder.glob(f"{package}-*.dist-info"):
            return info.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return ""
