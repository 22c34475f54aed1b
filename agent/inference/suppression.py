"""Texts that an answer must not contain, however the tokens would spell them.

A text has many spellings, and most tokens in them are harmless by themselves. So the tokens that
contain a text whole are forbidden from the start, and one that would complete a text with what
stands before it is turned down when it is chosen: the answer may come close, and turns away.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from agent.inference.candidates import Candidates
from agent.inference.failures import invalid_sampling
from agent.tokens.vocabulary import Vocabulary

MOST_TEXTS = 64
MOST_BYTES = 256


class Spellings:
    """The bytes of all tokens in one piece, so that searching them is one search: made for the
    first request that needs it (0.3 s at 262,144 tokens, 3 MB)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        pieces = [vocabulary.bytes_of(token) for token in range(vocabulary.size)]
        self._all = b"".join(pieces)
        self._ends = np.cumsum([len(piece) for piece in pieces])

    def containing(self, text: bytes) -> Iterator[int]:
        """The tokens with ``text`` in them, each as often as it is."""
        for place in self._places(text):
            token = int(np.searchsorted(self._ends, place, side="right"))
            if place + len(text) <= self._ends[token]:
                yield token

    def beginning_with(self, text: bytes) -> Iterator[int]:
        for token in self.containing(text):
            begin = self._ends[token - 1] if token else 0
            if self._all.startswith(text, begin):
                yield token

    def _places(self, text: bytes) -> Iterator[int]:
        place = self._all.find(text)
        while place >= 0:
            yield place
            place = self._all.find(text, place + 1)


class Unsaid:
    """A Constraint of sampler.py."""

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary, spellings: Spellings) -> None:
        self._texts = [text.encode() for text in texts]
        self._vocabulary = vocabulary
        self._spellings = spellings
        self._longest = max(map(len, self._texts))
        # As much of the answer's end as may be the beginning of a text.
        self._tail = b""

    def forbidden(self) -> set[int]:
        """The tokens that say a text by themselves."""
        return {token for text in self._texts for token in self._spellings.containing(text)}

    def permits(self, token: int) -> bool:
        said = self._tail + self._vocabulary.bytes_of(token)
        return not any(text in said for text in self._texts)

    def restrict(self, candidates: Candidates) -> None:
        for text in self._texts:
            for size in range(1, len(text)):
                if self._tail.endswith(text[:size]):
                    candidates.forbid(list(self._spellings.beginning_with(text[size:])))

    def take(self, token: int) -> None:
        said = self._tail + self._vocabulary.bytes_of(token)
        self._tail = said[max(0, len(said) - self._longest + 1) :]

    def close(self) -> None:
        """It owns nothing."""


def check(texts: Sequence[str]) -> None:
    """Raises InvalidRequest (INVALID_SAMPLING)."""
    if len(texts) > MOST_TEXTS:
        raise invalid_sampling("suppress_texts", len(texts), f"{MOST_TEXTS} texts at most")
    for text in texts:
        if not 0 < len(text.encode()) <= MOST_BYTES:
            raise invalid_sampling("suppress_texts", text[:40], f"of 1 to {MOST_BYTES} bytes")
