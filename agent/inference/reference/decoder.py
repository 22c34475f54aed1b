"""A decoder in Transformers and PEFT: slow, four bytes a parameter, and right.

The cache keeps every position of every layer, so any of a sequence's prefixes can be gone on with.
PEFT wraps the model when the first adapter comes; without one on, its layers step aside.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache

from agent.inference.decoder import Decoder, Logits
from agent.inference.engine import Adapter
from agent.inference.failures import adapter_unusable
from agent.inference.reference.model import load
from artifacts.base_model import BaseModel
from artifacts.convert.adapter import check_adapter
from protos.errors import NanofleetError

KEPT = 4


class ReferenceDecoder(Decoder):
    def __init__(self, base: BaseModel, threads: int) -> None:
        torch.set_num_threads(threads)
        self._base = base
        self._model = load(base)
        self._adapted: Any = None  # PEFT's model around the same modules
        # PEFT's names of the adapters, least recently used first.
        self._loaded: dict[str, str] = {}
        self._count = 0
        self._caches: dict[int, DynamicCache] = {}

    def wear(self, adapter: Adapter | None) -> None:
        if adapter is None:
            if self._adapted is not None:
                self._adapted.base_model.disable_adapter_layers()
            return
        name = self._loaded.pop(adapter.digest, None) or self._load(adapter)
        self._loaded[adapter.digest] = name
        self._adapted.base_model.enable_adapter_layers()
        self._adapted.set_adapter(name, inference_mode=True)
        for module in self._model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(name, adapter.scale)

    def decode(self, sequence: int, tokens: Sequence[int], position: int) -> Logits:
        cache = self._caches.setdefault(sequence, DynamicCache())
        with torch.inference_mode():
            out: Any = self._model(
                input_ids=torch.tensor([list(tokens)]), past_key_values=cache, logits_to_keep=1
            )
        logits: Logits = out.logits[0, -1].numpy()
        return logits

    def drop(self, sequence: int, position: int = 0) -> None:
        if position == 0:
            self._caches.pop(sequence, None)
        elif cache := self._caches.get(sequence):
            cache.crop(position - cache.get_seq_length())

    def close(self) -> None:
        self._caches.clear()

    def _load(self, adapter: Adapter) -> str:
        """PEFT's name for it. ``path`` is its weights; the configuration lies beside them."""
        folder = adapter.path.parent
        try:
            check_adapter(folder, self._base)
        except NanofleetError as error:
            raise adapter_unusable(adapter.digest, str(error)) from error
        self._count += 1
        name = f"adapter{self._count}"
        with _retired_name_ignored():
            if self._adapted is None:
                self._adapted = PeftModel.from_pretrained(self._model, folder, adapter_name=name)
            else:
                self._adapted.load_adapter(folder, adapter_name=name)
        while len(self._loaded) >= KEPT:
            self._adapted.delete_adapter(self._loaded.pop(next(iter(self._loaded))))
        return name


@contextmanager
def _retired_name_ignored() -> Iterator[None]:
    """PEFT 0.21 reads an attribute of the model by a name that Transformers 5 has retired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
