"""An answer in the making: which text may go out, and whether the answer is over.

Pure: tokens and their bytes go in, pieces come out. The engine asks after every token.
"""

from collections.abc import Sequence

from agent.inference.engine import Finish, Piece, TokenLogprob, Usage
from agent.inference.text import TextStream
from agent.quality.loops import tail_period


class Completion:
    def __init__(self, stop: Sequence[str], limit: int) -> None:
        self._stream = TextStream(stop)
        self._limit = limit
        self._text = ""
        self._sent = 0
        self._logprobs: list[TokenLogprob] = []
        self.tokens: list[int] = []

    def add(self, token: int, data: bytes, logprob: TokenLogprob | None = None) -> Finish | None:
        """Takes the next token and its bytes; returns why it was the last one, or None."""
        self.tokens.append(token)
        if logprob:
            self._logprobs.append(logprob)
        self._text += self._stream.feed(data)
        if self._stream.stopped:
            return Finish.STOP
        if tail_period(self.tokens):
            return Finish.LOOP
        return Finish.LENGTH if len(self.tokens) >= self._limit else None

    def piece(self) -> Piece | None:
        """What became final since the last piece; None when no text did."""
        return self._take() if self._text else None

    def last(self, finish: Finish, usage: Usage) -> Piece:
        self._text += self._stream.rest()
        return self._take(finish, usage)

    def _take(self, finish: Finish | None = None, usage: Usage | None = None) -> Piece:
        text, tokens = self._text, tuple(self.tokens[self._sent :])
        logprobs = tuple(self._logprobs)
        self._text, self._sent = "", len(self.tokens)
        self._logprobs.clear()
        return Piece(text, tokens, finish, usage, logprobs)
