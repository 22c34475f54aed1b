"""The language model of a checkpoint that sees pictures, too, under the names that it has alone.

From 4B up Gemma 3 is published as a vision tower, a projector and a language model in one. The last
is a Gemma 3 like the small ones. Its settings are in ``text_config``, where those are left out that
are the defaults of Transformers' class, and its tensors have a prefix.
"""

from collections.abc import Mapping
from pathlib import Path

from artifacts.convert.checkpoint import StoredTensor, read_checkpoint
from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest

_MODEL_TYPE = "gemma3"
# Of Transformers' Gemma3TextConfig.
_DEFAULTS: Mapping[str, object] = {
    "model_type": "gemma3_text",
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}

# As published, and as Transformers 4.52 to 4.57 have it in memory; with what each stands for.
_PREFIXES = (("language_model.", ""), ("model.language_model.", "model."))
_FOR_PICTURES = ("vision_tower.", "multi_modal_projector.")


def settings(config: JsonObject) -> JsonObject:
    """Of the language model in ``config``, which may be all there is. Raises InvalidRequest."""
    if config.raw("model_type") != _MODEL_TYPE:
        return config
    if "text_config" not in config:
        raise InvalidRequest(
            f"{config.where}: `text_config` is missing.",
            why=f"A model of type {_MODEL_TYPE!r} has its language model's settings there.",
            fix="Use the file as its maker wrote it: download or save it again.",
        )
    return config.child("text_config").with_defaults(_DEFAULTS)


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Those of the language model, by the names that they have alone."""
    stored = read_checkpoint(folder)
    return {plain_name(name): tensor for name, tensor in stored.items() if not _sees(name)}


def left_out(folder: Path) -> dict[str, StoredTensor]:
    """What only pictures need."""
    return {name: tensor for name, tensor in read_checkpoint(folder).items() if _sees(name)}


def plain_name(name: str) -> str:
    """Without the prefix that says that it is the language model's."""
    for prefix, instead in _PREFIXES:
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return name


def _sees(name: str) -> bool:
    return name.removeprefix("model.").startswith(_FOR_PICTURES)
