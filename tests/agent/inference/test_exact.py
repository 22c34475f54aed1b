"""An exact engine: an answer is the same to the last bit, whatever was asked before it."""

import threading
from pathlib import Path

from agent.inference.engine import EngineOptions, Request, Sampling
from agent.inference.llama import LlamaEngine

TINY = Path(__file__).parents[3] / "controller/demo/tiny/tiny-gemma3.gguf"
BEGINNING = "The robot lives in the kitchen, and it likes the sea. " * 6


def answered(engine: LlamaEngine, prompt: str) -> tuple[list[float], int]:
    request = Request(
        prompt, max_tokens=12, sampling=Sampling(temperature=1.0, seed=3), top_logprobs=0
    )
    pieces = list(engine.generate(request, threading.Event()))
    assert pieces[-1].usage is not None
    logprobs = [one.chosen.logprob for piece in pieces for one in piece.logprobs]
    return logprobs, pieces[-1].usage.cached_tokens


def test_log_probabilities_are_equal_after_any_other_request() -> None:
    options = EngineOptions(context_length=512, threads=1, streams=1, exact=True)
    prompts = [BEGINNING + ending for ending in ("Why?", "Where does it sleep at night?", "Who?")]
    fresh = []
    for prompt in prompts:
        with LlamaEngine.open(TINY, options) as engine:
            fresh.append(answered(engine, prompt))
    assert all(cached == 0 for _, cached in fresh)
    with LlamaEngine.open(TINY, options) as engine:
        later = [answered(engine, prompt) for prompt in (*prompts, *reversed(prompts))]
    assert [found for found, _ in later[:3]] == [found for found, _ in fresh]
    assert [found for found, _ in later[3:]] == [found for found, _ in reversed(fresh)]
    reused = [cached for _, cached in later[1:]]
    assert all(cached >= 64 for cached in reused), "the common beginning is read once"
    assert all(cached % 64 == 0 for cached in reused)
