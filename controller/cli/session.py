"""From a command to the fleet: opens it, runs one coroutine, closes it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from controller import Fleet

T = TypeVar("T")


def run(home: Path | None, body: Callable[["Fleet"], Awaitable[T]]) -> T:
    """The result of ``body``. Ctrl-C cancels it, and is raised here once all is closed."""
    import asyncio

    from controller import Fleet

    async def opened() -> T:
        async with Fleet.open(home) as fleet:
            return await body(fleet)

    return asyncio.run(opened())


def call(home: Path | None, body: Callable[["Fleet"], T]) -> T:
    """The same of what waits for nobody."""

    async def awaited(fleet: "Fleet") -> T:
        return body(fleet)

    return run(home, awaited)
