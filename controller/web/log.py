"""A line for each request, once it is answered. Keys stand there by their names."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.web.exchange import LOGGED, Json

OnRequest: TypeAlias = Callable[[Json], None]


class Logged:
    """``on_request`` gets ``at`` (UTC), ``method``, ``path``, ``status`` (null: none was sent),
    ``duration_s``, and what the endpoint says: ``key``, ``model``, ``device``, ``prompt_tokens``,
    ``completion_tokens``, ``error`` (its reason), ``left`` (the client did)."""

    def __init__(self, app: ASGIApp, on_request: OnRequest) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        at, began_s = datetime.now(timezone.utc), time.monotonic()
        said: dict[str, object] = scope.setdefault(LOGGED, {})
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._on_request(
                {
                    "at": at.isoformat(timespec="milliseconds"),
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_s": round(time.monotonic() - began_s, 4),
                    **said,
                }
            )
