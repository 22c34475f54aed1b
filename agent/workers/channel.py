"""The pipe between the agent and a worker: framed protobuf, one writer in each direction.

A frame is a 4-byte big-endian length and one message. The pipe is a pair of inherited descriptors
that carry nothing else: a library that prints to stdout cannot damage a frame. The end of the file
is the other side's death, and both sides treat it so.

The worker's side is blocking; the agent's side (``read_frames``) is asyncio. The worker packages
know no more of the agent's doings than this module.
"""

import argparse
import asyncio
import contextlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from artifacts.parent import end_with

M = TypeVar("M", bound=Message)

# A frame holds one report or command; text is chunked far below this.
MAX_FRAME_BYTES = 4 << 20
_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The bytes on the pipe are no frames: the other side is broken, and is given up."""


class FrameWriter:
    """Writes frames to a descriptor, each whole; threads may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, message: Message) -> None:
        """Blocks while the pipe is full. Raises BrokenPipeError when the reader is gone."""
        view = memoryview(encode(message))
        with self._lock:
            while view:
                view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class FrameReader(Generic[M]):
    """Reads frames of one message type from a descriptor, blocking."""

    def __init__(self, descriptor: int, kind: type[M]) -> None:
        self._file = os.fdopen(descriptor, "rb")
        self._kind = kind

    def read(self) -> M | None:
        """The next message; None when the writer has closed its end."""
        head = self._file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        length = length_of(head)
        body = self._file.read(length)
        return None if len(body) < length else decoded(self._kind, body)

    def close(self) -> None:
        self._file.close()


def encode(message: Message) -> bytes:
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def length_of(head: bytes) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame claims {length} bytes; the limit is {MAX_FRAME_BYTES}")
    return int(length)


def decoded(kind: type[M], body: bytes) -> M:
    """Bytes that are no message count as no frame: to read on behind them would be a guess."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise FrameError(f"a frame of {len(body)} bytes is no {kind.DESCRIPTOR.name}") from None


async def read_frames(stream: asyncio.StreamReader, kind: type[M]) -> AsyncIterator[M]:
    """The messages of a worker until it closes its end, for the agent's event loop."""
    while True:
        try:
            body = await stream.readexactly(length_of(await stream.readexactly(_LENGTH.size)))
        except asyncio.IncompleteReadError:
            return
        yield decoded(kind, body)


def attach(argv: Sequence[str] | None, commands: type[M]) -> tuple[FrameReader[M], FrameWriter]:
    """A worker's two ends, from ``--commands FD --reports FD --parent PID``.

    The worker's first act: from here on it ends with its agent.
    """
    parser = argparse.ArgumentParser()
    for name in ("--commands", "--reports", "--parent"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args(argv)
    end_with(arguments.parent)
    return FrameReader(arguments.commands, commands), FrameWriter(arguments.reports)
