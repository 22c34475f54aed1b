"""The engine on ONNX Runtime: a graph of our own (graph.py), in a folder made for it (export.py).

onnxruntime-genai is not used: its model builder wants a Hugging Face folder and PyTorch, fails on
Gemma 3 with Transformers 5, stores the embedding as float32 (2.4 GB for a 1B model), bakes adapters
in, and has no wheel for the Python of JetPack 6.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from agent.inference.engine import EngineOptions
from agent.inference.onnx.decoder import OnnxDecoder
from agent.inference.onnx.export import exported
from agent.inference.serial import SerialEngine
from agent.model.configuration import configuration
from agent.model.tensors import Tensors
from artifacts.base_model import BaseModel


class OnnxEngine(SerialEngine):
    @classmethod
    def open(cls, base: Path, options: EngineOptions) -> "OnnxEngine":
        return cls(base, options, _decoder)


def _decoder(base: BaseModel, options: EngineOptions) -> OnnxDecoder:
    shape, tensors = configuration(base), Tensors(base)
    with ExitStack() as owned:
        # Mapped files outlive their names: without a folder to keep it in, it is made for once.
        cache = options.cache or Path(owned.enter_context(tempfile.TemporaryDirectory()))
        folder = exported(base, shape, tensors, cache / "onnx")
        return OnnxDecoder(folder, shape, tensors, options)
