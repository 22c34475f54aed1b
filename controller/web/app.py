"""The composition root of `nanofleet serve`: everything that answers over HTTP, in one application.

/v1/…      the OpenAI-compatible gateway (controller/gateway)
/healthz   whether this process answers; for everybody
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from controller import Fleet
from controller.gateway import errors
from controller.gateway.api import Gateway
from controller.web.door import Door
from controller.web.log import Logged, OnRequest
from protos.errors import NotFound


@asynccontextmanager
async def application(
    fleet: Fleet, *, is_local: bool, models: Sequence[str] = (), on_request: OnRequest
) -> AsyncIterator[Starlette]:
    """``is_local``: only this machine can reach it. ``models``: names of those that are offered;
    none: all. NotFound for a name that the fleet does not have."""
    gateway = Gateway(fleet, Door(fleet, is_local=is_local), models)
    try:
        yield Starlette(
            routes=[*gateway.routes(), Route("/healthz", _health)],
            middleware=[Middleware(Logged, on_request=on_request)],
            exception_handlers={404: _not_there},
        )
    finally:
        await gateway.close()


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def _not_there(request: Request, _: Exception) -> JSONResponse:
    error = NotFound(
        f"There is no {request.url.path} here.",
        fix="There is /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings.",
        reason="UNKNOWN_PATH",
    )
    return JSONResponse(errors.document(error), errors.answer_of(error).status)
