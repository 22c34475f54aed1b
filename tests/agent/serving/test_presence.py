"""Whether a request is here: told at once, and only once none is left."""

import asyncio

from agent.serving.presence import Presence


async def test_some_until_the_last_has_ended() -> None:
    presence = Presence()
    await presence.none()
    waiting = asyncio.create_task(presence.some())
    await asyncio.sleep(0)
    assert not waiting.done()
    with presence.of_one():
        await waiting
        with presence.of_one():
            await presence.some()
        gone = asyncio.create_task(presence.none())
        await asyncio.sleep(0)
        assert not gone.done()
    await gone
