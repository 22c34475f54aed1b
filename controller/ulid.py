"""ULIDs, the ids of jobs: 48 bits of milliseconds and 80 random bits, in Crockford's base 32.

Made by the submitter, so that a submission can be repeated without a second job; they sort by the
time they were made. Source: github.com/ulid/spec.
"""

import secrets
import time
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
LENGTH = 26


def new(utc_ns: Callable[[], int] = time.time_ns) -> str:
    value = (utc_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
