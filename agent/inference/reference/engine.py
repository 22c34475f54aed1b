"""The reference engine: Transformers, PEFT and float32.

For tests, for verifying another engine's answers on a device, and for boards with nothing else.
"""

from pathlib import Path

from agent.inference.engine import EngineOptions
from agent.inference.reference.decoder import ReferenceDecoder
from agent.inference.serial import SerialEngine


class ReferenceEngine(SerialEngine):
    @classmethod
    def open(cls, base: Path, options: EngineOptions) -> "ReferenceEngine":
        return cls(base, options, ReferenceDecoder)
