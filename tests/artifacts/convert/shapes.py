"""Miniatures of the families, and what Transformers and PEFT compute with them."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.tiny import SENTENCES, build_hugging_face_folder, perturb

# The largest difference of a logit between Transformers and the F32 file. A wrong rope base of
# Gemma's global layers differs by less than quantisation does: only this tight a bound shows it.
EXACT = 5e-3
# Two logits closer than this are a matter of rounding: differences measured are below 1.3e-3.
TIE = 2e-3

FAMILIES = ("gemma3", "qwen2", "qwen3", "llama")
ROWS = 640  # of the byte-level vocabularies; some stay unused

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"qwen2": _LETTERS + r"\p{N}" + _REST, "llama": _LETTERS + r"\p{N}{1,3}" + _REST}
SPLITS["qwen3"] = SPLITS["qwen2"]


def build(family: str, folder: Path, seed: int = 1, **changes: Any) -> Path:
    """``changes``: of the configuration; for Gemma, arguments of the tiny one."""
    if family == "gemma3":
        return build_hugging_face_folder(folder, seed=seed, **changes)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": ROWS,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "attn_implementation": "eager",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    special: dict[str, dict[str, Any]] = {
        # Attention biases; tied.
        "qwen2": {"tie_word_embeddings": True, "rope_theta": 1_000_000.0},
        # Norms on the heads, which are wider than hidden / heads; tied.
        "qwen3": {"tie_word_embeddings": True, "head_dim": 64, "rope_theta": 500_000.0},
        # Interleaved rotation, stretched rope, an output matrix of its own.
        "llama": {
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**common, **special[family], **changes})
    model = AutoModelForCausalLM.from_config(config)
    perturb(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_byte_level_tokenizer(folder, family)
    return folder


def write_byte_level_tokenizer(folder: Path, family: str) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    llama = family == "llama"
    tokenizer = Tokenizer(BPE(ignore_merges=llama))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[family]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=ROWS - 20,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    if llama:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
                ),
            ]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "bos_token": {"content": "<|begin_of_text|>"} if llama else None,
        "eos_token": "<|end_of_text|>",
        "chat_template": [{"name": "default", "template": "{{ messages[0]['content'] }}"}],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def prompt(length: int = 200, seed: int = 0) -> list[int]:
    """Token numbers: longer than the tiny Gemma's window, and the same in every run."""
    return [0, *np.random.default_rng(seed).integers(300, 600, length - 1).tolist()]


def load(folder: Path) -> Any:
    """Transformers' model in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, tokens: list[int]) -> npt.NDArray[np.float32]:
    import torch

    with torch.no_grad():
        found: npt.NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].numpy()
    return found


def generations(model: Any, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
    """Five prompts, longer than the tiny Gemma's window, and what greedily follows each.

    A generation ends after twelve tokens, or before two words are too close to call.
    """
    found = []
    for length in range(40, 140, 20):
        generated: list[int] = []
        while len(generated) < 12:
            last = logits(model, tokens[:length] + generated)[-1:]
            if not decided(last).all():
                break
            generated.append(int(last.argmax()))
        found.append((tokens[:length], generated))
    assert sum(len(generated) for _, generated in found) > 20
    return found


def decided(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """At which positions the best word leads by more than rounding moves it."""
    best = np.partition(values, -2, axis=-1)[:, -2:]
    leads: npt.NDArray[np.bool_] = best[:, 1] - best[:, 0] > TIE
    return leads


def divergence(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """The mean Kullback-Leibler divergence over positions, in nats."""
    p, q = (values - _log_sum(values) for values in (expected, found))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _log_sum(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    top = values.max(-1, keepdims=True)
    found: npt.NDArray[np.float32] = top + np.log(np.exp(values - top).sum(-1, keepdims=True))
    return found


def read_adapter(model: Any, folder: Path) -> Any:
    """PEFT's model of an adapter that was saved, in float32."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as in write_adapter
        return PeftModel.from_pretrained(model, folder).float().eval()


def write_adapter(
    model: Any, folder: Path, *, seed: int = 3, strength: float = 0.02, **settings: Any
) -> Any:
    """Puts a LoRA on the model, moves B off zero so that it matters, saves it; PEFT's model."""
    import torch
    from peft import LoraConfig, get_peft_model

    values = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a name that Transformers renamed
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **values)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape) * strength)
    adapted.save_pretrained(folder)
    return adapted
