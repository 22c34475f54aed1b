"""A folder as PEFT saves a LoRA: its two files, and what its settings mean.

All engines add (alpha / rank) * B A x and nothing else. Whatever PEFT can do beyond that is refused
by the name of its setting, because it would be left out without a word; so are ranks and alphas by
layer: an adapter has one scale, in its manifest and in every engine.
"""

from collections.abc import Iterator
from pathlib import Path

from artifacts import hub_cache
from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest, NotFound

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"

# What PEFT can add to a plain LoRA: the key that asks for it, and its name in the refusal.
_BEYOND = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "biases on B",
    "rank_pattern": "ranks by layer",
    "alpha_pattern": "alphas by layer",
    "modules_to_save": "modules trained in full",
    "trainable_token_indices": "trained token rows",
    "target_parameters": "parameters outside of modules",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activation by tokens",
    "arrow_config": "routing between adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
    "fan_in_fan_out": "transposed weights",
}
# What else a LoraConfig has: how it was trained, or said in the tensors anyway.
_UNDERSTOOD = {
    *("auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern"),
    *("layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config"),
    *("megatron_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r"),
    *("revision", "runtime_config", "target_modules", "task_type", "use_rslora", "velora_config"),
}
# Ways to start that leave the base as it is; the others (PiSSA, OLoRA, ...) train against a base
# that they changed.
_FAITHFUL_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def files_of(folder: Path) -> tuple[Path, Path]:
    """The configuration and the weights, both regular files of the folder.

    Raises NotFound, or InvalidRequest for a link that leads out of it: whoever made the folder
    would choose which file of this machine travels to the devices.
    """
    if not folder.is_dir():
        raise NotFound(
            f"There is no folder {folder}.",
            fix=f"Give the folder that has {CONFIG_FILE} and {WEIGHTS_FILE}.",
        )
    root = hub_cache.root_of(folder.resolve())
    return _own_file(folder / CONFIG_FILE, root), _own_file(folder / WEIGHTS_FILE, root)


def _own_file(path: Path, root: Path) -> Path:
    pickled = path.name == WEIGHTS_FILE and path.with_name(_PICKLE_FILE).exists()
    if not path.is_symlink() and not path.exists():
        raise NotFound(
            f"{path} is missing.",
            why=f"There is {_PICKLE_FILE}: pickles can run code, and are not read."
            if pickled
            else "",
            fix="Give the whole folder, as PEFT's save_pretrained() writes it: with safetensors.",
        )
    if not path.resolve().is_relative_to(root):
        raise InvalidRequest(
            f"{path} is a link that leads out of its folder.",
            why=f"It names {path.resolve()}.",
            fix="Put a copy of the file in its place, if it is the adapter's.",
        )
    if not path.is_file():
        raise InvalidRequest(
            f"{path} is no regular file.",
            fix="Give a folder as PEFT's save_pretrained() writes it.",
        )
    return path


def scaled_alpha(config: JsonObject, use: str) -> float:
    """The alpha that is to be divided by the rank: rsLoRA divides its own by the rank's root.

    Raises InvalidRequest for an adapter that is more than that, and cannot be ``use``.
    """
    if config.text("peft_type") != "LORA":
        raise _beyond(config, f"a {config.text('peft_type')} adapter", use)
    for key, name in _BEYOND.items():
        if config.raw(key):
            raise _beyond(config, f"{name} (`{key}`)", use)
    if config.text("bias", "none") != "none":
        raise _beyond(config, f"trained biases (`bias`: {config.text('bias')})", use)
    start = config.raw("init_lora_weights")
    if start is not None and start not in _FAITHFUL_STARTS:
        raise _beyond(config, f"a start that changes the base (`init_lora_weights`: {start})", use)
    rank, alpha = config.integer("r"), config.number("lora_alpha")
    if rank == 0 or alpha == 0:
        raise InvalidRequest(
            f"{config.where}: rank {rank} with alpha {alpha:g} changes nothing.",
            fix="Train a plain LoRA with a rank and an alpha above 0.",
        )
    return alpha * rank**0.5 if config.flag("use_rslora", False) else alpha


def _beyond(config: JsonObject, name: str, use: str) -> InvalidRequest:
    return InvalidRequest(
        f"{config.where}: {name} cannot be {use}.",
        why="An adapter adds (alpha / rank) * B A to matrices; the rest would be lost unsaid.",
        fix="Train a plain LoRA, without that setting.",
        reason="UNSUPPORTED_ADAPTER",
    )


def warnings(config: JsonObject) -> Iterator[str]:
    """Sentences about what might be lost."""
    unknown = sorted(
        key for key in config if key not in _UNDERSTOOD and key not in _BEYOND and config.raw(key)
    )
    if unknown:
        yield (
            f"{CONFIG_FILE} has settings that are not known here: {', '.join(unknown)}. If they "
            "change what the adapter computes, that is left out."
        )
