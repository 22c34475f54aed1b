"""The model that was served last, for a start after a power cut: served.json in the state folder.

    load begins ─▶ opening ─▶ opened ─▶ adapters are noted as they are used
                      │          └── unloaded by a person: forgotten
                      └── it cannot be loaded: forgotten

What was still being opened when the agent ended is not opened again by itself: that may be what
ended it. A file that cannot be read is left aside with a line in the log.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent.threads import in_thread
from artifacts import digest as digests
from artifacts import durable
from artifacts.digest import Digest
from artifacts.persisting import Point

_LOG = logging.getLogger(__name__)

FILE = "served.json"
# As many as every engine keeps loaded.
MOST_ADAPTERS = 4
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Served:
    base_digest: Digest
    context_length: int
    # In the order of their first use.
    adapter_digests: tuple[Digest, ...] = ()
    is_opening: bool = False


class LastServed:
    """``path`` None: nothing outlives the agent."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._served: Served | None = None

    async def read(self) -> Served | None:
        """As the last start left it."""
        self._served = await in_thread(_read, self._path) if self._path else None
        return self._served

    async def opening(self, base: Digest, context_length: int) -> None:
        """The adapters that were in use with it stay so."""
        known = self._served
        adapters = known.adapter_digests if known and known.base_digest == base else ()
        await self._keep(Served(base, context_length, adapters, is_opening=True))

    async def opened(self) -> None:
        if self._served:
            await self._keep(replace(self._served, is_opening=False))

    async def used(self, base: Digest, adapter: Digest) -> None:
        served = self._served
        if served and served.base_digest == base and adapter not in served.adapter_digests:
            adapters = (*served.adapter_digests, adapter)[-MOST_ADAPTERS:]
            await self._keep(replace(served, adapter_digests=adapters))

    async def unusable(self, adapter: Digest) -> None:
        if served := self._served:
            others = tuple(one for one in served.adapter_digests if one != adapter)
            await self._keep(replace(served, adapter_digests=others))

    async def forget(self) -> None:
        self._served = None
        if self._path:
            await in_thread(_remove, self._path)

    async def _keep(self, served: Served) -> None:
        self._served = served
        if self._path:
            await in_thread(_write, self._path, served)


def _read(path: Path) -> Served | None:
    try:
        content = json.loads(path.read_bytes())
        if content["format_version"] != _FORMAT:
            raise ValueError("another version has written it")
        return Served(
            digests.parse(content["base_digest"], "base_digest"),
            int(content["context_length"]),
            tuple(digests.parse(one, "adapter_digests") for one in content["adapter_digests"]),
            bool(content["is_opening"]),
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever is in it, the agent starts without it
        _LOG.warning("%s is not used, no model is loaded at the start: %r", path, error)
        return None


def _write(path: Path, served: Served) -> None:
    content = {"format_version": _FORMAT, **asdict(served)}
    try:
        durable.write_bytes(path, json.dumps(content).encode() + b"\n", Point.SERVED_NOTED)
    except OSError as error:
        _LOG.warning("the served model is not remembered in %s: %s", path, error)


def _remove(path: Path) -> None:
    try:
        durable.remove(path, Point.SERVED_FORGOTTEN)
    except OSError as error:
        _LOG.warning("%s cannot be removed: %s", path, error)
