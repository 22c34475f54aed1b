"""docs/gateway.md tells every field that is taken, and every one that is refused."""

import re

import pytest

from controller.gateway import fields
from controller.gateway.chat import ChatFields
from controller.gateway.completions import CompletionFields
from controller.gateway.embeddings import EmbeddingFields
from controller.gateway.fields import Fields
from tests.controller.agents import ROOT

PAGE = (ROOT / "docs/gateway.md").read_text()
SUPPORTED = PAGE[PAGE.index("## What is supported") : PAGE.index("## Errors")]
NAMED = set(re.findall(r"`(\w+)(?:\.\w+)?(?:: [^`]+)?`", SUPPORTED))
# As the page says them: "tools and functions", "images and audio", "penalties".
IN_WORDS = {
    "audio", "best_of", "function_call", "functions", "frequency_penalty", "modalities",
    "parallel_tool_calls", "service_tier", "tool_choice", "verbosity", "web_search_options",
}  # fmt: skip


@pytest.mark.parametrize("kind", [ChatFields, CompletionFields, EmbeddingFields])
def test_what_is_taken(kind: type[Fields]) -> None:
    assert set(kind.model_fields) - {"model"} <= NAMED


def test_what_is_refused() -> None:
    assert set(fields.UNSUPPORTED) <= NAMED | IN_WORDS
