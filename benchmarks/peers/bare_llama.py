"""llama.cpp alone: what its own calls reach in this process, with the settings of our engine.

    python -m benchmarks.peers.bare_llama BASE.gguf --threads 2 --context 512 --prompt 32 --tokens 9

Decodes greedily, each token's logits to the next by the library's own sampler, and nothing else: no
text, no checks, no cancellation. Prints one JSON object with the tokens per second of each answer.
"""

import argparse
import json
import time
from pathlib import Path

import llama_cpp

ANSWERS = 3
_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    for name in ("--threads", "--context", "--prompt", "--tokens"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.use_extra_bufts = False
    model = llama_cpp.llama_model_load_from_file(bytes(arguments.base), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = arguments.context
    params.n_batch = params.n_ubatch = _BATCH
    params.n_threads = params.n_threads_batch = arguments.threads
    params.swa_full = True
    context = llama_cpp.llama_init_from_model(model, params)
    sampler = llama_cpp.llama_sampler_init_greedy()
    found = []
    for _ in range(ANSWERS + 1):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        prompt = (llama_cpp.llama_token * arguments.prompt)(*range(300, 300 + arguments.prompt))
        assert not llama_cpp.llama_decode(
            context, llama_cpp.llama_batch_get_one(prompt, arguments.prompt)
        )
        began_s = time.perf_counter()
        for _ in range(arguments.tokens):
            token = llama_cpp.llama_sampler_sample(sampler, context, -1)
            one = (llama_cpp.llama_token * 1)(token)
            assert not llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1))
        found.append(arguments.tokens / (time.perf_counter() - began_s))
    print(json.dumps({"tokens_per_s": found[1:]}))


if __name__ == "__main__":
    main()
