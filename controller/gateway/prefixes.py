"""Where the beginning of a conversation was read last: there its prefix may still be in the cache.

A device keeps the prefixes of a few conversations. The next question of one begins with what was
asked before, so it is looked up by its longest beginning that is known. Nothing that anybody wrote
is kept, only digests of it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

# Some 100 bytes each; a device keeps four prefixes.
MOST = 4096


def beginnings(model: Sequence[str], parts: Sequence[str]) -> list[bytes]:
    """A digest for each beginning of ``parts`` with this model, the shortest first."""
    chain = hashlib.sha256()
    for word in model:
        _feed(chain, word)
    found = []
    for part in parts:
        _feed(chain, part)
        found.append(chain.digest())
    return found


class Prefixes:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._devices: OrderedDict[bytes, str] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._devices)

    def device(self, digests: Sequence[bytes]) -> str:
        """Where the longest known of these beginnings was read; empty when none is known."""
        for digest in reversed(digests):
            if (device := self._devices.get(digest)) is not None:
                self._devices.move_to_end(digest)
                return device
        return ""

    def note(self, digests: Sequence[bytes], device: str) -> None:
        """All of these beginnings are read there now; the longest finds the others' place."""
        if not digests:
            return
        self._devices[digests[-1]] = device
        self._devices.move_to_end(digests[-1])
        while len(self._devices) > self._most:
            self._devices.popitem(last=False)


def _feed(chain: "hashlib._Hash", text: str) -> None:
    """With its length in front: no other split of the same characters has this digest."""
    data = text.encode(errors="surrogatepass")
    chain.update(len(data).to_bytes(8, "big") + data)
