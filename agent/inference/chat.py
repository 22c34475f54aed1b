"""A conversation to tokens, as the model was taught to read one.

The chat template of the base model renders it. BOS stands in front once, whether the template
writes it or the vocabulary wants it; what a person wrote stays text (agent/tokens/disguise.py).
Training follows the same rules with the same code.
"""

from collections.abc import Sequence
from functools import cached_property

from agent.inference.engine import Message
from agent.inference.failures import no_answer, no_chat_template, unknown_role
from agent.tokens.disguise import Disguise
from agent.tokens.turns import TurnEnds
from agent.tokens.vocabulary import Vocabulary
from artifacts.chat_template import ChatTemplate

ROLES = ("system", "user", "assistant")


class Chat:
    """``source`` is the template's Jinja text; empty when the model has none."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        self._source = source
        self._vocabulary = vocabulary

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt up to where the assistant begins. Raises InvalidRequest or Refused."""
        disguise, hidden = self._hidden(messages)
        return self._vocabulary.with_bos(disguise.tokens(self._template.prompt(hidden)))

    def answers(self, messages: Sequence[Message]) -> list[tuple[list[int], list[int]]]:
        """Each of the assistant's messages, with the end of its turn, after the prompt that it
        answers: what training labels. Raises InvalidRequest or Refused."""
        disguise, hidden = self._hidden(messages)
        found = []
        for number, message in enumerate(hidden):
            if message.role != "assistant":
                continue
            prompt = self._template.prompt(hidden[:number])
            whole = self._template.conversation(hidden[: number + 1])
            end = self._turn_ends.after(whole, len(prompt))
            if not whole.startswith(prompt) or end is None:
                raise no_answer()
            tokens = self._vocabulary.with_bos(disguise.tokens(prompt))
            found.append((tokens, disguise.tokens(whole[len(prompt) : end])))
        if not found:
            raise no_answer()
        return found

    def _hidden(self, messages: Sequence[Message]) -> tuple[Disguise, list[Message]]:
        for message in messages:
            # Most templates write any role as it is: text from outside, next to control tokens.
            if message.role not in ROLES:
                raise unknown_role(message.role)
        disguise = Disguise(self._vocabulary, (message.content for message in messages))
        return disguise, [Message(m.role, disguise.hide(m.content)) for m in messages]

    @cached_property
    def _turn_ends(self) -> TurnEnds:
        return TurnEnds(self._vocabulary)

    @cached_property
    def _template(self) -> ChatTemplate:
        """Compiled for the first conversation: a broken template is no reason not to load."""
        if not self._source:
            raise no_chat_template()
        return ChatTemplate(self._source, self._vocabulary.special_texts())
