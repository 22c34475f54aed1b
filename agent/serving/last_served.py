"""The model that was served last, for a start after a power cut: served.json in the state folder.

    load begins ─▶ opening ─▶ served ─▶ adapters are noted as they are used
                      │          └── unloaded by a person: forgotten
                      └── it cannot be loaded: forgotten

What was still being opened when the agent ended is not opened again by itself: that may be what
ended it. A file that cannot be read is left aside with a line in the log. Blocking.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from artifacts import digest as digests
from artifacts import durable
from artifacts.digest import Digest

_LOG = logging.getLogger(__name__)

FILE = "served.json"
# As many as every engine keeps loaded.
MOST_ADAPTERS = 4
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Served:
    base_digest: Digest
    context_length: int
    # The one used last is the last.
    adapter_digests: tuple[Digest, ...] = ()
    is_opening: bool = False

    def using(self, adapter: Digest) -> "Served":
        others = [one for one in self.adapter_digests if one != adapter]
        return replace(self, adapter_digests=(*others, adapter)[-MOST_ADAPTERS:])


class LastServed:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Served | None:
        try:
            content = json.loads(self._path.read_bytes())
            if content.pop("format_version") != _FORMAT:
                raise ValueError("another version has written it")
            return Served(
                digests.parse(content["base_digest"], "base_digest"),
                int(content["context_length"]),
                tuple(digests.parse(one, "adapter") for one in content["adapter_digests"]),
                bool(content["is_opening"]),
            )
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever is in it, the agent starts without it
            _LOG.warning("%s is not used, no model is loaded at the start: %r", self._path, error)
            return None

    def write(self, served: Served) -> None:
        content = {"format_version": _FORMAT, **asdict(served)}
        try:
            durable.write_bytes(self._path, json.dumps(content).encode() + b"\n")
        except OSError as error:
            _LOG.warning("the served model is not remembered in %s: %s", self._path, error)

    def forget(self) -> None:
        try:
            durable.remove(self._path)
        except OSError as error:
            _LOG.warning("%s cannot be removed: %s", self._path, error)
