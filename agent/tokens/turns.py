"""Where an answer ends in a rendered conversation: training learns it, and scoring counts it."""

from agent.tokens.vocabulary import Vocabulary


class TurnEnds:
    """The control tokens that end an answer, by the texts that a chat template writes for them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._texts = tuple(
            vocabulary.text_of(token)
            for token in range(vocabulary.size)
            if vocabulary.is_control(token) and vocabulary.ends_answer(token)
        )

    def after(self, rendered: str, start: int) -> int | None:
        """The end of the first one from ``start`` on; None when the template writes none."""
        ends = [
            position + len(text)
            for text in self._texts
            if (position := rendered.find(text, start)) >= 0
        ]
        return min(ends, default=None)
