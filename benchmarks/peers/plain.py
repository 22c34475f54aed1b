"""The plain recipe: Transformers + optimum-quanto + PEFT, as their documentation has it.

    python -m benchmarks.peers.plain FOLDER --weights qint8 --tokens 256 --samples 3 --threads 1
        [--device cuda]

``qint8`` quantises every linear layer but the tied head and freezes it; ``bf16`` leaves the model
as it is. LoRA of rank 8 on attention, gradient checkpointing, torch's AdamW, batch 1 in both.
Prints one JSON object; the times are of samples after the first.
"""

import argparse
import json
import os
import time
from pathlib import Path

from agent.workers import residency

os.environ.setdefault("HF_HUB_OFFLINE", "1")

RANK, ALPHA, LEARNING_RATE = 8, 16, 2e-4
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", choices=("qint8", "bf16"), required=True)
    for name in ("--tokens", "--samples", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.bfloat16)
    model = model.to(arguments.device)
    if arguments.weights == "qint8":
        from optimum.quanto import freeze, qint8, quantize

        quantize(model, weights=qint8, exclude="lm_head")
        freeze(model)
    model.config.use_cache = False
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)

    cpu_s, wall_s = [], []
    for _ in range(arguments.samples):
        began_cpu_s, began_s = time.process_time(), time.perf_counter()
        tokens = torch.randint(8, model.config.vocab_size, (1, arguments.tokens))
        tokens = tokens.to(arguments.device)
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        cpu_s.append(time.process_time() - began_cpu_s)
        wall_s.append(time.perf_counter() - began_s)
    peak = residency.measure().peak_rss_bytes
    found = {"peak_rss_bytes": peak, "cpu_s": cpu_s[1:], "wall_s": wall_s[1:]}
    if arguments.device == "cuda":
        found["peak_gpu_bytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
