"""A thread that follows a writer: what is written by one is hashed or synced by another.

A disk's sync takes milliseconds, and a hash is as fast as the link: done in the writer's thread,
each would hold up the bytes that come meanwhile. ``wait_within`` is the leash: it bounds how far
the writer gets ahead, and so what a power cut can take.

    written   ────────────────────────▶ grown_to
    done      ───────────────▶ step         the thread: step(done, written) does some of it
"""

import threading
from collections.abc import Callable


class Trail:
    def __init__(
        self,
        name: str,
        step: Callable[[int, int], int],
        *,
        done: int = 0,
        written: int = 0,
        least: int = 1,
    ) -> None:
        """``step`` gets what is done and what is written, in bytes, and returns what is done then;
        it is not called for less than ``least`` bytes before the end. What it raises is raised by
        the methods here."""
        self._step = step
        self._done, self._written, self._least = done, written, least
        self._changed = threading.Condition()
        self._complete = self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def grown_to(self, written: int) -> None:
        with self._changed:
            self._written = written
            self._changed.notify_all()

    def wait_within(self, distance: int) -> None:
        """Returns when at most so many bytes are not done."""
        with self._changed:
            while self._written - self._done > distance and self._error is None:
                self._changed.wait()
        self._raise()

    def complete(self) -> None:
        """Returns when all that was written is done. Nothing is to be written any more."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def close(self) -> None:
        """Ends the thread, wherever it is; fine when it has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (written := self._more()) is not None:
                done = self._step(self._done, written)
                with self._changed:
                    self._done = done
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is the writer's, who is in another thread
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _more(self) -> int | None:
        """How much is written, once there is something to do; None when that is over."""
        with self._changed:
            while not self._closed:
                left = self._written - self._done
                if left >= self._least or (self._complete and left):
                    return self._written
                if self._complete:
                    return None
                self._changed.wait()
            return None
