"""One item ahead: while a slice is quantised and written, the next is read and digested.

Reading, SHA-256 and most of NumPy leave Python's lock, so two cores work where one did.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items (none of them None), the next one in the making; what it raises comes in its
    turn."""
    with ThreadPoolExecutor(1) as other:
        coming = other.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = other.submit(next, items, None)
            yield item
