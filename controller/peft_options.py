"""What people know from PEFT's LoraConfig and we do not offer, with what to do instead.

Told apart from misspelt keys: "unknown key" would send people to look for the right spelling.
"""

_PER_MODULE = "all targets share one rank and alpha. Set `rank` and `alpha`."
_INITIAL = "adapters start as no change of the base, as PEFT's default does. Leave it out."
_KINDS = "adapters are plain LoRA, which the inference engine can apply. Leave it out."

WHY: dict[str, str] = {
    "use_dora": _KINDS,
    "use_qalora": _KINDS,
    "use_rslora": "it is called `rslora` here.",
    "r": "it is called `rank` here.",
    "lora_alpha": "it is called `alpha` here.",
    "lora_dropout": "it is called `dropout` here.",
    "target_modules": "it is called `targets` here.",
    "exclude_modules": "name the projections that are trained in `targets`.",
    "init_lora_weights": _INITIAL,
    "eva_config": _INITIAL,
    "corda_config": _INITIAL,
    "loftq_config": _INITIAL,
    "bias": "the models' biases stay frozen, as PEFT's default does. Leave it out.",
    "lora_bias": "LoRA's matrices have no bias, as PEFT's default. Leave it out.",
    "modules_to_save": "whole modules do not fit beside an 8-bit base; only `targets` are trained.",
    "trainable_token_indices": "the vocabulary stays frozen; only `targets` are trained.",
    "layers_to_transform": "all layers are adapted. Choose `targets` or a lower `rank` instead.",
    "layers_pattern": "all layers are adapted. Choose `targets` or a lower `rank` instead.",
    "rank_pattern": _PER_MODULE,
    "alpha_pattern": _PER_MODULE,
    "layer_replication": "the base keeps its layers. Leave it out.",
    "fan_in_fan_out": "the base's layout is known from its file. Leave it out.",
    "megatron_config": "a board trains alone. Leave it out.",
    "task_type": "the task is always causal language modelling. Leave it out.",
    "inference_mode": "a job trains; the adapter that results is for inference. Leave it out.",
    "peft_type": "it is always LORA. Leave it out.",
}
