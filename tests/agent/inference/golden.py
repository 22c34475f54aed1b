"""Makes the golden vector: ``python -m tests.agent.inference.golden``.

A tiny Gemma 3 in Q8_0, and what the reference engine answers greedily. Quantised products differ
between engines by up to 0.06 of a logit here, so only prompts count whose every choice is made by
a clear margin; and of those, beside one for each answer, such as are answered otherwise by a model
that is wrong in one thing only (a window that is one too long: a real bug of a runtime). Run by
hand; test_proof.py holds the recorded prompts against the reference.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.inference import proof
from agent.inference.decoder import Row
from agent.inference.engine import EngineOptions
from agent.inference.reference.decoder import ReferenceDecoder
from agent.tokens import vocabulary as vocabularies
from agent.tokens.vocabulary import Vocabulary
from artifacts import base_model
from artifacts.convert import FileType, convert_model
from tests.agent.inference.conftest import make_lively_folder
from tests.tiny import SENTENCES, TEXT

TOKENS = 3
MARGIN = 0.2
WINDOW = 32
# Added to the norms behind attention and feed-forward.
LOUDER = 0.5
# Keys of the header that are read wrongly.
WRONG: tuple[Mapping[str, int | float], ...] = (
    {"gemma3.attention.sliding_window": WINDOW - 1},
    {"gemma3.attention.sliding_window": WINDOW + 1},
    {"gemma3.attention.layer_norm_rms_epsilon": 0.1},
)


class Answers:
    """Of the reference over the golden model, or over one with ``wrong`` keys."""

    def __init__(
        self, model: Path, vocabulary: Vocabulary, wrong: Mapping[str, int | float] | None = None
    ) -> None:
        base = base_model.read(model)
        self._decoder = ReferenceDecoder(
            replace(base, metadata={**base.metadata, **(wrong or {})}), EngineOptions()
        )
        self._vocabulary = vocabulary

    def to(self, prompt: str, margin: float = MARGIN) -> list[int]:
        """The greedy tokens; none when one of them is chosen by less than the margin."""
        tokens = self._vocabulary.with_bos(self._vocabulary.rendered(prompt))
        self._decoder.drop(0)
        at = 0
        for at in range(0, len(tokens), 64):
            logits = self._after(tokens[at : at + 64], at)
        said: list[int] = []
        while len(said) < TOKENS:
            second, first = np.sort(logits)[-2:]
            token = int(logits.argmax())
            if first - second < margin or self._vocabulary.ends_answer(token):
                return []
            said.append(token)
            logits = self._after(said[-1:], len(tokens) + len(said) - 1)
        return said

    def _after(self, tokens: list[int], position: int) -> Row:
        rows = self._decoder.logit_rows(0, tokens, position)
        assert rows
        return rows[0]


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        convert_model(_restless(Path(scratch) / "model"), folder / proof.MODEL, FileType.Q8_0)
    model = folder / proof.MODEL
    texts = [TEXT[at : at + length] for at in range(0, len(TEXT), 7) for length in (20, 60, 100)]
    texts += [sentence[:length] for sentence in SENTENCES for length in range(10, 90, 4)]
    with vocabularies.opened(model) as vocabulary:
        right = Answers(model, vocabulary)
        clear = {text: found for text in texts if (found := right.to(text))}
        chosen = {tuple(found): text for text, found in clear.items()}
        prompts = set(chosen.values())
        for wrong in WRONG:
            answers = Answers(model, vocabulary, wrong)
            telling = [text for text in clear if answers.to(text, margin=0) != clear[text]]
            assert telling, f"no prompt tells {wrong}"
            prompts.update(telling[:2])
    vector = [{"prompt": text, "tokens": clear[text]} for text in sorted(prompts)]
    (folder / proof.VECTOR).write_text(json.dumps(vector, indent=1, ensure_ascii=False) + "\n")


def _restless(folder: Path) -> Path:
    """A model in which layers add as much as they are given: what one of them gets wrong shows."""
    import torch
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM.from_pretrained(make_lively_folder(folder, hidden=64))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "post_attention_" in name or "post_feedforward_" in name:
                parameter.add_(LOUDER)
    model.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    make(proof.FOLDER)
