"""One request over HTTP and its answer: a JSON document, or events as they come.

What is done for a client that has left is undone: the work is cancelled, and with it what a device
does for it. A client that reads slowly holds up the work, not the memory of this process.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from protos.errors import InvalidRequest

Json: TypeAlias = Mapping[str, object]

# Of the HTTP scope: what the log says of the request beside its path and status.
LOGGED = "nanofleet.logged"

# As many times the limit.
_READ_FOR_NOTHING = 8

_DONE = b"data: [DONE]\n\n"


class ClientLeft(Exception):
    """Nobody reads the answer any more."""


class Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = Headers(scope=scope)
        self.path_params: Mapping[str, str] = scope.get("path_params", {})
        self.has_begun = False
        self._receive = receive
        self._send = send
        self._logged: dict[str, object] = scope.setdefault(LOGGED, {})

    def log(self, **fields: object) -> None:
        self._logged.update(fields)

    async def body(self, most_bytes: int, too_large: InvalidRequest) -> bytes:
        """All of it. Raises ``too_large`` when it is more than that.

        What is a little too much is read, and thrown away: a client that is answered while it
        still sends sees a broken connection instead of the answer.
        """
        kept, size = bytearray(), 0
        while size <= _READ_FOR_NOTHING * most_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            size += len(part)
            if size <= most_bytes:
                kept += part
            if not message.get("more_body", False):
                break
        if size > most_bytes:
            raise too_large
        return bytes(kept)

    async def unless_left(self, work: Awaitable[None]) -> None:
        """Does the work, once the body is read. Cancels it when the client leaves: ClientLeft."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientLeft
            working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.wait((working, leaving))

    async def reply(
        self, document: Json, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(document, ensure_ascii=False).encode()
        sizes = {"content-type": "application/json", "content-length": str(len(data))}
        await self._begin(status, {**sizes, **(headers or {})})
        await self._send({"type": "http.response.body", "body": data})

    async def begin_events(self, headers: Mapping[str, str]) -> None:
        """Proxies are told not to collect them."""
        kind = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        await self._begin(200, {**kind, "x-accel-buffering": "no", **headers})

    async def event(self, document: Json) -> None:
        data = f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self, last: bytes = _DONE) -> None:
        await self._send({"type": "http.response.body", "body": last})

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        raw = [(n.encode(), value.encode("latin-1", "replace")) for n, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]
