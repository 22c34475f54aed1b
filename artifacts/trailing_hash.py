"""The SHA-256 of a file that is being written, computed in a thread of its own.

A hash cannot be resumed: when an upload goes on after a cut, all that came before has to be hashed
again. Done here, nobody waits for it: the next bytes come meanwhile, and the end waits only for
what is left. Without a cut the hash is a few chunks behind the writer, which spares the writer's
thread the hashing; what is read back lies in the page cache.
"""

import hashlib
import os
import threading

_BLOCK_BYTES = 1 << 20


class TrailingHash:
    """``descriptor`` stays open until ``close`` or ``result`` has returned."""

    def __init__(self, descriptor: int, size_bytes: int = 0) -> None:
        """``size_bytes`` are there already."""
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._written = size_bytes
        self._changed = threading.Condition()
        self._closed = self._complete = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="trailing hash", daemon=True)
        self._thread.start()

    def grown_to(self, size_bytes: int) -> None:
        with self._changed:
            self._written = size_bytes
            self._changed.notify()

    def result(self) -> str:
        """The digits, over all that was written. Ends the thread."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def close(self) -> None:
        """Ends the thread, wherever it is; fine when it has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        done = 0
        try:
            while self._waited_for_more(done):
                block = os.pread(self._descriptor, min(_BLOCK_BYTES, self._written - done), done)
                if not block:
                    raise OSError("The file is shorter than what was written to it.")
                self._hash.update(block)
                done += len(block)
        except OSError as error:
            self._error = error

    def _waited_for_more(self, done: int) -> bool:
        """False when there is nothing more to do."""
        with self._changed:
            while done == self._written and not (self._complete or self._closed):
                self._changed.wait()
            return not self._closed and done < self._written
