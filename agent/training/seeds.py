"""Seeds for torch's generators, from the recipe's one.

torch's CPU generator starts from the low 32 bits of its seed, so that seeds that differ above them
would give one and the same run. A hash spreads all bits, and keeps apart what the numbers are for.
"""

import hashlib

_BYTES = 7  # torch takes signed 64-bit numbers


def derived(seed: int, purpose: str, *numbers: int) -> int:
    """Equal for equal arguments, on every machine."""
    text = " ".join((str(seed), purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_BYTES], "little")
