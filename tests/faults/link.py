"""A link that fails on purpose: a proxy on loopback between the controller and the device.

    drop         all connections break, and none is accepted
    truncate     the next block is cut in the middle, and its connection breaks
    delay        nothing passes for a while, then all of it
    half open    one way is dead and says nothing; the other works
    slow         64 kbit/s
    duplicate    each new connection is opened twice at the device, with the same first bytes

One fault at a time; ``heal`` ends it. The proxy has a thread and an event loop of its own, so that
it works while the test waits for something else.
"""

import asyncio
import contextlib
import enum
import random
import threading
from collections.abc import Callable
from types import TracebackType

SLOW_BYTES_PER_S = 64_000 // 8
_BLOCK_BYTES = 1 << 16
_SLOW_BYTES = 512


class Fault(enum.Enum):
    DROP = "drop"
    TRUNCATE = "truncate"
    DELAY = "delay"
    HALF_OPEN = "half open"
    SLOW = "slow"
    DUPLICATE = "duplicate"


class Way(enum.Enum):
    UP = "to the device"
    DOWN = "to the controller"


class Link:
    """Listens on ``port``, passes to ``device_port``; both on loopback."""

    def __init__(self, port: int, device_port: int, seed: int = 0) -> None:
        self._port, self._device_port = port, device_port
        self._random = random.Random(seed)
        self._fault: Fault | None = None
        self._dead_way = Way.UP
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self.passed_bytes = 0
        self.cuts = 0

    def __enter__(self) -> "Link":
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def break_with(self, fault: Fault) -> None:
        self._call(lambda: self._begin(fault))

    def heal(self) -> None:
        self._call(self._end)

    def _call(self, act: Callable[[], None]) -> None:
        """In the loop's thread; returns when it is done."""
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _begin(self, fault: Fault) -> None:
        self._fault = fault
        self._dead_way = self._random.choice(list(Way))
        if fault is Fault.DROP:
            self._cut_all()
        if fault in (Fault.DELAY, Fault.HALF_OPEN):
            self._open.clear()

    def _end(self) -> None:
        self._fault = None
        self._open.set()

    def _cut_all(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()
            self.cuts += 1

    async def _close(self) -> None:
        self._end()
        self._server.close()
        self._cut_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.DROP:
            writer.transport.abort()
            return
        try:
            up_reader, up = await asyncio.open_connection("127.0.0.1", self._device_port)
        except OSError:  # the agent is down
            writer.transport.abort()
            return
        twin = await self._twin() if self._fault is Fault.DUPLICATE else None
        ends = {writer, up}
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pass(reader, up, Way.UP, twin), self._pass(up_reader, writer, Way.DOWN)
            )
        finally:
            self._writers -= ends
            for each in (*ends, *([twin] if twin else [])):
                each.transport.abort()

    async def _twin(self) -> asyncio.StreamWriter | None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._device_port)
        except OSError:
            return None
        return writer

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Way,
        twin: asyncio.StreamWriter | None = None,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(_BLOCK_BYTES):
                await self._wait_while_dead(way)
                if twin is not None:
                    twin.write(block)
                    twin = None
                if self._fault is Fault.TRUNCATE and len(block) > 1:
                    self._fault = None  # of one connection
                    writer.write(block[: self._random.randrange(1, len(block))])
                    await writer.drain()
                    self.cuts += 1
                    break
                await self._write(writer, block)
                self.passed_bytes += len(block)
        writer.transport.abort()

    async def _wait_while_dead(self, way: Way) -> None:
        while not self._open.is_set() and (self._fault is Fault.DELAY or self._dead_way is way):
            await self._open.wait()

    async def _write(self, writer: asyncio.StreamWriter, block: bytes) -> None:
        for at in range(0, len(block), _SLOW_BYTES):
            if self._fault is not Fault.SLOW:
                writer.write(block[at:])
                await writer.drain()
                return
            writer.write(block[at : at + _SLOW_BYTES])
            await writer.drain()
            await asyncio.sleep(_SLOW_BYTES / SLOW_BYTES_PER_S)
