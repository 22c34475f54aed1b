"""What a request says, as tokens: plain text to go on with, or a conversation for the template."""

from collections.abc import Sequence

from agent.inference import failures
from agent.inference.chat import Chat
from agent.inference.engine import Message, Request, Sample
from agent.tokens.vocabulary import Vocabulary


class Prompts:
    """``template``: the base model's Jinja text; empty when it has none."""

    def __init__(self, template: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._chat = Chat(template, vocabulary)

    def tokens(self, prompt: str | Sequence[Message]) -> list[int]:
        """Special tokens included."""
        if isinstance(prompt, str):
            return self._vocabulary.with_bos(self._vocabulary.rendered(prompt))
        return self._chat.tokens(prompt)

    def checked(self, request: Request, context_length: int) -> list[int]:
        """The tokens of a request that can be answered. Raises InvalidRequest or Refused."""
        if not request.prompt:
            raise failures.empty_prompt()
        if not all(request.stop):
            raise failures.empty_stop()
        tokens = self.tokens(request.prompt)
        if not tokens:
            raise failures.empty_prompt()
        if len(tokens) >= context_length:
            raise failures.prompt_too_long(len(tokens), context_length)
        return tokens

    def plain(self, text: str) -> list[int]:
        """A text to be read: nothing in it is a control token. Raises InvalidRequest."""
        if not text:
            raise failures.nothing_to_read("texts")
        return self._vocabulary.with_bos(self._vocabulary.plain(text))

    def parts(self, sample: Sample) -> list[tuple[list[int], list[int]]]:
        """What is scored, each with what stands before it: the tokens that training makes of the
        sample. Raises InvalidRequest or Refused."""
        vocabulary = self._vocabulary
        if sample.messages:
            return self._chat.answers(sample.messages)
        if not sample.completion:
            raise failures.nothing_to_read("items")
        scored = [*vocabulary.plain(sample.completion), vocabulary.eos]
        if sample.prompt:
            return [(vocabulary.with_bos(vocabulary.plain(sample.prompt)), scored)]
        whole = vocabulary.with_bos(scored)
        before = len(whole) - len(scored)
        return [(whole[:before], scored)]
