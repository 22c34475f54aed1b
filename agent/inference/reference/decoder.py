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

from agent.inference.decoder import Decoder, Row
from agent.inference.engine import Adapter, EngineOptions
from agent.inference.failures import adapter_unusable
from agent.inference.reference.model import load
from artifacts.base_model import BaseModel
from artifacts.convert.adapter import check_adapter
from protos.errors import NanofleetError

KEPT = 4


class _Cancelled(Exception):
    """Ends a computation between two layers."""


class ReferenceDecoder(Decoder):
    def __init__(self, base: BaseModel, options: EngineOptions) -> None:
        super().__init__()
        torch.set_num_threads(options.threads)
        self._freed = options.freed
        self._base = base
        model: Any = load(base)
        self._model = model
        for layer in model.base_model.layers:
            layer.register_forward_pre_hook(self._look)
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

    def logit_rows(
        self, sequence: int, tokens: Sequence[int], position: int, rows: int = 1
    ) -> Sequence[Row] | None:
        out = self._computed(self._model, sequence, tokens, position, logits_to_keep=rows)
        return None if out is None else list(out.logits[0].numpy())

    def hidden_states(
        self, sequence: int, tokens: Sequence[int], position: int
    ) -> Sequence[Row] | None:
        out = self._computed(self._model.base_model, sequence, tokens, position)
        return None if out is None else list(out.last_hidden_state[0].numpy())

    def drop(self, sequence: int, position: int = 0) -> None:
        """Layer by layer: those behind the one at which a call ended early hold less."""
        if position == 0:
            self._caches.pop(sequence, None)
        elif cache := self._caches.get(sequence):
            for layer in cache.layers:
                layer.crop(min(0, position - layer.get_seq_length()))

    def close(self) -> None:
        self._caches.clear()

    def _computed(
        self, model: Any, sequence: int, tokens: Sequence[int], position: int, **wanted: int
    ) -> Any:
        """What the model says of the tokens; None when it was cancelled."""
        cache = self._caches.setdefault(sequence, DynamicCache())
        try:
            with torch.inference_mode():
                ids = torch.tensor([list(tokens)])
                return model(input_ids=ids, past_key_values=cache, **wanted)
        except _Cancelled:
            self.drop(sequence, position)
            return None

    def _look(self, *_layer: object) -> None:
        """Before each layer."""
        if self.is_cancelled():
            raise _Cancelled

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
            oldest = next(iter(self._loaded))
            self._adapted.delete_adapter(self._loaded.pop(oldest))
            self._freed(oldest)
        return name


@contextmanager
def _retired_name_ignored() -> Iterator[None]:
    """PEFT 0.21 reads an attribute of the model by a name that Transformers 5 has retired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
