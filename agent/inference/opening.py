"""Opening a base with an engine: the libraries are told how to behave before they are loaded, and a
build that has not proved itself does so first."""

import os
from pathlib import Path

from agent.inference import engines, proof
from agent.inference.engine import Engine, EngineOptions

# Read by the engine's libraries when they are loaded.
_ENVIRONMENT = {
    # OpenMP's threads wait for the next layer by spinning. Unbounded, that takes the cores from
    # everything else: 2.7 tokens/s instead of 28 beside a busy process.
    "GOMP_SPINCOUNT": "2000",
    # A failed assertion would start gdb, which on a small board ends more than this process.
    "GGML_NO_BACKTRACE": "1",
    # Everything is on this machine; nobody is to wait for a hub that a board cannot reach.
    "HF_HUB_OFFLINE": "1",
}


def opened(name: str, base: Path, options: EngineOptions) -> Engine:
    """The engine called ``name`` (empty: the default) with the base in it. Raises what Engine.open
    does, and WorkerFailed when the engine is not installed or answers wrongly."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    chosen = name or engines.DEFAULT
    engine_type = engines.imported(chosen)
    proof.prove(chosen, engine_type, options.cache)
    return engine_type.open(base, options)
