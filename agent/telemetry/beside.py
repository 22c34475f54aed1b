"""Another program beside the board's own files, for machines where those are closed.

    tegrastats   NVIDIA's own: a line of text a second
    jtop         jetson-stats, through jetson/jtop_reader.py: a line of JSON a second

The program is a child with a pipe; its newest line is what a sample takes, for as long as it is
fresh. When it ends, it is started again after a while, and the log says why it ended, once for each
reason. It is asked for in agent.toml, never started by itself.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from agent import config
from agent.telemetry import jtop
from jetson.observed import Observed, of_tegrastats
from jetson.tegrastats import parse_tegrastats
from protos.errors import NanofleetError, WorkerFailed

# A line comes each second.
FRESH_S = 5.0
_AGAIN_S = 30.0
_PERIOD_MS = 1000
_LONGEST_LINE_BYTES = 1 << 16

_LOG = logging.getLogger(__name__)


def read_tegrastats(line: str) -> Observed:
    parsed = parse_tegrastats(line)
    if parsed.unread:
        _LOG.debug("tegrastats: not understood: %s", " ".join(parsed.unread))
    return of_tegrastats(parsed)


class Beside:
    """``parse`` makes an observation of a line; it raises NanofleetError for one that explains why
    there is none."""

    def __init__(
        self,
        source: str,
        command: Sequence[str],
        parse: Callable[[str], Observed],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._command = command
        self._parse = parse
        self._clock_s = clock_s
        self._newest: tuple[float, Observed] | None = None
        self._told: set[str] = set()

    @classmethod
    def of(cls, settings: config.Telemetry) -> "Beside | None":
        """As agent.toml says; None where it asks for none."""
        if settings.beside == "tegrastats":
            command = ("tegrastats", "--interval", str(_PERIOD_MS))
            return cls("tegrastats", command, read_tegrastats)
        if settings.beside == "jtop":
            return cls("jtop", jtop.command(settings.jtop_python), jtop.parse)
        return None

    def newest(self) -> Observed | None:
        """None before the first line, and when the program has fallen silent. From any thread."""
        newest = self._newest
        if newest is None or self._clock_s() - newest[0] > FRESH_S:
            return None
        return newest[1]

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Keeps the program running until cancelled."""
        while True:
            try:
                await self.read()
            except NanofleetError as error:
                self._tell(str(error))
            await sleep(_AGAIN_S)

    async def read(self) -> None:
        """Runs the program to its end; raises WorkerFailed that says why it ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_LINE_BYTES,
            )
        except OSError as error:
            raise WorkerFailed(
                f"{self.source} cannot be started as a source of telemetry.",
                why=f"{Path(self._command[0]).name}: {error.strerror}.",
                fix='Install it, or set telemetry.beside to "" in agent.toml.',
            ) from error
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._newest = self._clock_s(), self._parse(line.decode("utf-8", "replace"))
            code = await process.wait()
        except ValueError as error:
            raise WorkerFailed(f"{self.source} wrote an endless line.", why=f"{error}.") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        raise WorkerFailed(f"{self.source} ended.", why=f"Its exit code is {code}.")

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            _LOG.warning("%s It is tried again every %.0f s.", why, _AGAIN_S)
