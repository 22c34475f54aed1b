"""Checkpoints and LoRA adapters of Hugging Face as GGUF, the one file that trains and serves.

Imported only in a process of its own (``python -m artifacts.convert``) or in a worker: it needs
NumPy and the gguf package, and neither torch nor transformers.
"""

from artifacts.convert.adapter import AdapterConversion, convert_adapter
from artifacts.convert.merge import merge_adapter
from artifacts.convert.model import Conversion, FileType, Progress, Proof, convert_model

__all__ = [
    "AdapterConversion",
    "Conversion",
    "FileType",
    "Progress",
    "Proof",
    "convert_adapter",
    "convert_model",
    "merge_adapter",
]
