"""The fastest bfloat16 product of the shape's largest matrix, with 256 rows: what share is of.

python -m benchmarks.gemm ROWS HIDDEN FEED_FORWARD THREADS
"""

import json
import sys
import time

import torch

_TIMES = 30


def peak_flops(rows: int, hidden: int, feed_forward: int) -> float:
    """Floating-point operations per second of the best of many products."""
    inputs = torch.randn(rows, hidden).bfloat16()
    matrix = torch.randn(feed_forward, hidden).bfloat16()
    out = torch.empty(rows, feed_forward, dtype=torch.bfloat16)
    best_s = float("inf")
    for _ in range(_TIMES):
        began_s = time.perf_counter()
        torch.mm(inputs, matrix.t(), out=out)
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * rows * hidden * feed_forward / best_s


if __name__ == "__main__":
    *sizes, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    print(json.dumps({"peak_flops": peak_flops(*sizes)}))
