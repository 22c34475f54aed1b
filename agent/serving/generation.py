"""One answer on its way from the worker to a client, which may read slower than it is written.

What arrives of a text between two reads is merged: a slow client gets larger pieces, never a longer
queue. Embeddings and scores are as many as were asked for, and wait in a list.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from protos.errors import NanofleetError
from protos.nanofleet.v1.inference_pb2 import FINISH_REASON_UNSPECIFIED, GenerateResponse

R = TypeVar("R")

# With 20 alternatives each, 600 kB: a message must stay below 4 MiB.
_MOST_LOGPROBS = 1000


class Reply(ABC, Generic[R]):
    """``add`` on the event loop as responses arrive, ``responses`` for the client."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.ended = False
        self._error: NanofleetError | None = None
        self._news = asyncio.Event()

    def add(self, response: R) -> None:
        self._keep(response)
        self._news.set()

    def fail(self, error: NanofleetError) -> None:
        """What arrived before is still delivered."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._news.set()

    async def responses(self) -> AsyncIterator[R]:
        """Until the reply is complete. Raises what the worker reported instead of it."""
        while True:
            await self._news.wait()
            self._news.clear()
            last = self.ended
            for response in self._kept():
                yield response
            if last:
                break
        if self._error is not None:
            raise self._error

    @abstractmethod
    def _keep(self, response: R) -> None:
        """Sets ``ended`` with the last one."""

    @abstractmethod
    def _kept(self) -> list[R]:
        """What has been kept since the last call."""


class Generation(Reply[GenerateResponse]):
    def __init__(self, id: int) -> None:
        super().__init__(id)
        self._full: list[GenerateResponse] = []
        self._waiting = GenerateResponse()

    def _keep(self, response: GenerateResponse) -> None:
        """Text is appended; the end of the answer is taken over as it is."""
        if len(self._waiting.logprobs) >= _MOST_LOGPROBS:
            self._full.append(self._waiting)
            self._waiting = GenerateResponse()
        text = self._waiting.text + response.text
        self._waiting.MergeFrom(response)
        self._waiting.text = text
        self.ended = self.ended or response.finish_reason != FINISH_REASON_UNSPECIFIED

    def _kept(self) -> list[GenerateResponse]:
        kept = [*self._full, self._waiting]
        self._full, self._waiting = [], GenerateResponse()
        return [response for response in kept if response.ByteSize()]


class Results(Reply[R]):
    """``count`` responses, each as it is."""

    def __init__(self, id: int, count: int) -> None:
        super().__init__(id)
        self._missing = count
        self._waiting: list[R] = []

    def _keep(self, response: R) -> None:
        self._waiting.append(response)
        self._missing -= 1
        self.ended = self.ended or self._missing == 0

    def _kept(self) -> list[R]:
        waiting, self._waiting = self._waiting, []
        return waiting
