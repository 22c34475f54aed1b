"""How fast the llama engine reads a prompt and answers, alone in this process.

    python -m benchmarks.engine_speed BASE.gguf --device cuda --threads 4 --tokens 96

Prints one JSON object: for each of three answers, the tokens per second of a new prompt of 220
tokens, and of the answer.
"""

import argparse
import json
import threading
from pathlib import Path

from agent.inference import opening
from agent.inference.engine import EngineOptions, Request
from benchmarks.board import text

ANSWERS = 3
_CONTEXT, _PROMPT = 2048, 219


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    for name in ("--threads", "--tokens"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    options = EngineOptions(_CONTEXT, arguments.threads, streams=1, device=arguments.device)
    read, answered = [], []
    with opening.opened("llama", arguments.base, options) as engine:
        for number in range(ANSWERS + 1):
            request = Request(text(_PROMPT, number), max_tokens=arguments.tokens)
            *_, last = engine.generate(request, threading.Event())
            assert last.usage
            tokens = last.usage.prompt_tokens - last.usage.cached_tokens
            read.append(tokens / last.usage.prefill_s)
            answered.append(last.usage.completion_tokens / last.usage.decode_s)
    print(json.dumps({"prompt_tokens_per_s": read[1:], "tokens_per_s": answered[1:]}))


if __name__ == "__main__":
    main()
