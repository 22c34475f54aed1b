"""How one request's next tokens are chosen: its sampler, its grammar, and what must not be said."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property

from agent.inference import logprobs, sampler
from agent.inference.candidates import Row
from agent.inference.completion import Completion
from agent.inference.engine import MOST_TOP_LOGPROBS, Finish, Request, TokenLogprob
from agent.inference.failures import nothing_left, too_many_logprobs
from agent.inference.grammar import Grammar
from agent.inference.sampler import Constraint, Sampler
from agent.inference.suppression import Spellings, Unsaid
from agent.tokens.vocabulary import Vocabulary


class ChoiceMaker:
    """Makes the choices of an engine's requests; the vocabulary's spellings are shared by them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def make(
        self, request: Request, prompt: Sequence[int], is_cancelled: Callable[[], bool]
    ) -> "Choice":
        """Raises InvalidRequest. Close it after use."""
        vocabulary, asked = self._vocabulary, request.sampling
        sampler.check(asked, vocabulary.size)
        if request.top_logprobs is not None and request.top_logprobs > MOST_TOP_LOGPROBS:
            raise too_many_logprobs(request.top_logprobs, MOST_TOP_LOGPROBS)
        forbidden = set(asked.suppress_tokens)
        constraints: list[Constraint] = []
        if asked.suppress_texts:
            unsaid = Unsaid(asked.suppress_texts, vocabulary, self._spellings)
            forbidden |= unsaid.forbidden()
            constraints.append(unsaid)
        with ExitStack() as owned:
            grammar = None
            if request.grammar:
                grammar = Grammar(request.grammar, vocabulary, is_cancelled)
                owned.callback(grammar.close)
                constraints.append(grammar)
            chain = Sampler(asked, vocabulary.size, forbidden, constraints)
            owned.callback(chain.close)
            chain.see(prompt)
            return Choice(vocabulary, chain, grammar, request.top_logprobs, owned.pop_all())

    @cached_property
    def _spellings(self) -> Spellings:
        return Spellings(self._vocabulary)


class Choice:
    def __init__(
        self,
        vocabulary: Vocabulary,
        chain: Sampler,
        grammar: Grammar | None,
        top_logprobs: int | None,
        owned: ExitStack,
    ) -> None:
        self._vocabulary = vocabulary
        self._sampler = chain
        self._grammar = grammar
        self._top_logprobs = top_logprobs
        self._owned = owned

    def extend(self, completion: Completion, row: Row) -> Finish | None:
        """Adds the next token, chosen from the row; returns why the answer is over, if it is.
        Raises Interrupted when it was cancelled meanwhile."""
        token = self._sampler.choose(row)
        if token is None:
            # Where the end of the turn is suppressed, a complete grammar leaves nothing at all.
            if self._grammar and self._grammar.is_complete:
                return Finish.STOP
            raise nothing_left()
        if self._vocabulary.ends_answer(token):
            return Finish.STOP
        self._sampler.take(token)
        found = self._logprob(row, token)
        return completion.add(token, self._vocabulary.bytes_of(token), found)

    def close(self) -> None:
        self._owned.close()

    def _logprob(self, row: Row, token: int) -> TokenLogprob | None:
        if self._top_logprobs is None:
            return None
        return logprobs.of_token(row.logits, token, self._top_logprobs, self._vocabulary.bytes_of)
