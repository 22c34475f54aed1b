"""Makes the golden vector: ``python -m tests.agent.inference.golden``.

A tiny Gemma 3 in Q8_0, and what the reference engine answers greedily. Quantised products differ
between engines by up to 0.06 of a logit here, so only prompts count whose every choice is made by
a clear margin. Run by hand; test_proof.py holds the recorded prompts against the reference.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from agent.inference import proof
from agent.inference.engine import EngineOptions
from agent.inference.reference.engine import ReferenceEngine
from artifacts.convert import FileType, convert_model
from tests.agent.inference.conftest import make_lively_folder
from tests.tiny import SENTENCES

TOKENS = 3
MARGIN = 0.2


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = make_lively_folder(Path(scratch) / "model", hidden=64)
        convert_model(source, folder / proof.MODEL, FileType.Q8_0)
    with ReferenceEngine.open(folder / proof.MODEL, EngineOptions(proof.CONTEXT)) as engine:
        texts = [sentence[:length] for sentence in SENTENCES for length in range(10, 90)]
        clear = {text: found for text in texts if (found := answered(engine, text))}
    # The longest prompt of each answer: past the window of 32 where it can be.
    chosen = {tuple(found): text for text, found in clear.items()}
    vector = [{"prompt": text, "tokens": found} for found, text in chosen.items()]
    (folder / proof.VECTOR).write_text(json.dumps(vector, indent=1, ensure_ascii=False) + "\n")


def answered(engine: ReferenceEngine, prompt: str) -> list[int]:
    """The greedy tokens; none when one of them is chosen by less than the margin."""
    decoder: Any = engine._decoder
    tokens = engine.tokenise(prompt)
    decoder.drop(0)
    logits = decoder.decode(0, tokens, 0)
    said: list[int] = []
    while len(said) < TOKENS:
        second, first = np.sort(logits)[-2:]
        token = int(logits.argmax())
        if first - second < MARGIN or engine.vocabulary.ends_answer(token):
            return []
        said.append(token)
        logits = decoder.decode(0, said[-1:], len(tokens) + len(said) - 1)
    return said


if __name__ == "__main__":
    make(proof.FOLDER)
