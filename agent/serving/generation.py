"""One answer on its way from the worker to a client, which may read slower than it is written.

What arrives between two reads is merged: a slow client gets larger pieces, never a longer queue.
"""

import asyncio
from collections.abc import AsyncIterator

from protos.errors import NanofleetError
from protos.nanofleet.v1.inference_pb2 import FINISH_REASON_UNSPECIFIED, GenerateResponse


class Generation:
    def __init__(self, id: int) -> None:
        self.id = id
        self.ended = False
        self._waiting = GenerateResponse()
        self._error: NanofleetError | None = None
        self._news = asyncio.Event()

    def add(self, response: GenerateResponse) -> None:
        """Text is appended; the end of the answer is taken over as it is."""
        text = self._waiting.text + response.text
        self._waiting.MergeFrom(response)
        self._waiting.text = text
        self.ended = self.ended or response.finish_reason != FINISH_REASON_UNSPECIFIED
        self._news.set()

    def fail(self, error: NanofleetError) -> None:
        """What arrived before is still delivered."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._news.set()

    async def responses(self) -> AsyncIterator[GenerateResponse]:
        """Until the answer is complete. Raises what the worker reported instead of it."""
        while True:
            await self._news.wait()
            self._news.clear()
            last, waiting = self.ended, self._waiting
            self._waiting = GenerateResponse()
            if waiting.ByteSize():
                yield waiting
            if last:
                break
        if self._error is not None:
            raise self._error
