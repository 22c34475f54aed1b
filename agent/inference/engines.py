"""The engines by name: where each is, what installs it, and which file of an adapter it reads.

For the daemon as well, which loads none of them. A worker imports the chosen one's module only.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from agent.inference.engine import Engine
from protos.errors import InvalidRequest, WorkerFailed

DEFAULT = "llama"


@dataclass(frozen=True, slots=True)
class EngineKind:
    module: str
    type_name: str
    # Of nanofleet: what brings the packages.
    extra: str
    # Of the adapter artifact's files.
    adapter_file: str
    # The distributions that compute.
    packages: tuple[str, ...]


ENGINES: Mapping[str, EngineKind] = {
    "llama": EngineKind(
        "agent.inference.llama", "LlamaEngine", "infer", "adapter.gguf", ("llama-cpp-python",)
    ),
    "onnxruntime": EngineKind(
        "agent.inference.onnx.engine",
        "OnnxEngine",
        "onnx",
        "adapter.gguf",
        ("onnxruntime", "llama-cpp-python"),
    ),
    "transformers": EngineKind(
        "agent.inference.reference.engine",
        "ReferenceEngine",
        "reference",
        "adapter_model.safetensors",
        ("torch", "transformers", "peft", "llama-cpp-python"),
    ),
}


def named(name: str) -> EngineKind:
    """Raises InvalidRequest for a name that is none."""
    if found := ENGINES.get(name):
        return found
    near = importlib.import_module("difflib").get_close_matches(name, ENGINES, 1, 0.5)
    raise InvalidRequest(
        f"The inference engine {name!r} is unknown.",
        why=f"The engines are {', '.join(ENGINES)}.",
        fix=f"Did you mean {near[0]}?" if near else f'The default is "{DEFAULT}".',
        field="engine",
    )


def imported(name: str) -> type[Engine]:
    """The engine's class. Raises WorkerFailed with the command that installs what it needs."""
    kind = named(name)
    try:
        module = importlib.import_module(kind.module)
    except ImportError as error:
        raise WorkerFailed(
            f"The inference engine {name} is not installed.",
            why=f"{error}.",
            fix=f"Run: pip install 'nanofleet[{kind.extra}]'",
        ) from error
    found: type[Engine] = getattr(module, kind.type_name)
    return found
