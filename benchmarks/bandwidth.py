"""How fast this machine reads memory: the limit of decoding, which reads all weights for a token.

    python -m benchmarks.bandwidth MEGABYTES THREADS

Sums up a buffer that is too large for any cache, with torch's threads. Prints one JSON object.
"""

import json
import sys
import time

import torch

_TIMES = 12


def read_bytes_per_s(megabytes: int) -> float:
    """Of the best of many passes."""
    buffer = torch.ones(megabytes * 1_000_000 // 8, dtype=torch.int64)
    best_s = float("inf")
    for _ in range(_TIMES):
        began_s = time.perf_counter()
        buffer.sum()
        best_s = min(best_s, time.perf_counter() - began_s)
    return buffer.nbytes / best_s


if __name__ == "__main__":
    size, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    print(json.dumps({"bytes_per_s": read_bytes_per_s(size)}))
