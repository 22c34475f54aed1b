"""From tokens to text that may be shown: a token is no character, and a stop string no token.

A token may end inside a character of several bytes, and a stop string may begin in one token and
end two later. Text that was sent cannot be called back, so as much is held back as could still
turn out to be a part of either, and no more. Work for a token does not grow with the answer.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """Bytes in, text out that is final; ``stopped`` once a stop string was complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """The text that ``data`` made final. Bytes that are no UTF-8 become U+FFFD."""
        text = self._held + self._decoder.decode(data)
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = len(text) - self._possible_stop(text)
        self._held = text[keep:]
        return text[:keep]

    def rest(self) -> str:
        """What was held back, now that nothing follows; half a character is dropped."""
        text, self._held = self._held, ""
        return text

    def _possible_stop(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
