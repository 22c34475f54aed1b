"""Whether somebody waits for an answer: work that nobody waits for makes way meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Presence:
    """Used in the running loop."""

    def __init__(self) -> None:
        self._requests = 0
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def requests(self) -> int:
        """That are here."""
        return self._requests

    @contextmanager
    def of_one(self) -> Iterator[None]:
        """Around a request, from its arrival to its end."""
        self._requests += 1
        self._some.set()
        self._none.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._some.clear()
                self._none.set()

    async def some(self) -> None:
        """Returns when a request is here."""
        await self._some.wait()

    async def none(self) -> None:
        """Returns when none is."""
        await self._none.wait()
