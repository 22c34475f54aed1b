"""What people wrote stays text, also when it looks like a control token.

A message may contain "<end_of_turn>". In a rendered chat template that would become the token, and
whoever may fill in one message could end it and speak for the others. So it is hidden behind a mark
while the template is rendered and control tokens are recognised, and spelled out after that. The
two workers share these lines: a model has to be served the very tokens that it was taught.
"""

from collections.abc import Iterable, Iterator

from agent.tokens.vocabulary import Vocabulary

# Two characters of Unicode's private use area around a number.
_MARK = "\ue0f0{}\ue0f1"


class Disguise:
    """For one conversation; ``texts`` are all that people wrote in it."""

    def __init__(self, vocabulary: Vocabulary, texts: Iterable[str]) -> None:
        self._vocabulary = vocabulary
        found = {
            vocabulary.text_of(token)
            for text in texts
            for token in vocabulary.control_tokens_in(text)
        }
        # The longest text first: another may be a part of it.
        ordered = sorted(found, key=lambda text: (-len(text), text))
        self._marks = {text: _MARK.format(number) for number, text in enumerate(ordered)}
        self._shown = {mark: text for text, mark in self._marks.items()}

    def hide(self, text: str) -> str:
        """A text with marks in the place of control tokens."""
        return _replaced(text, self._marks)

    def tokens(self, rendered: str) -> list[int]:
        """Tokens of a rendered piece, with what the marks stand for as plain text. No BOS."""
        if not self._marks:
            return self._vocabulary.rendered(rendered)
        tokens: list[int] = []
        for control, text in self._cut(rendered):
            tokens += self._vocabulary.plain(_replaced(text, self._shown)) if text else []
            tokens += control
        return tokens

    def _cut(self, rendered: str) -> Iterator[tuple[list[int], str]]:
        """Each control token, with the text before it; at the end the rest, with no token."""
        start = 0
        for token in self._vocabulary.control_tokens_in(rendered):
            text = self._vocabulary.text_of(token)
            found = rendered.index(text, start)
            yield [token], rendered[start:found]
            start = found + len(text)
        yield [], rendered[start:]


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
