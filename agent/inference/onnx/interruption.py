"""A run of ONNX Runtime that ends early when its request is cancelled.

The runtime looks at a flag between two operations, and tells nobody when it looks. So while it
computes a part of a prompt, which may take half a second, a thread looks whether the flag is to be
set. One token is over before that would matter.
"""

import threading
from collections.abc import Callable

from onnxruntime import InferenceSession, IOBinding, RunOptions

_LOOK_S = 0.01


def run(
    session: InferenceSession, binding: IOBinding, is_long: bool, is_cancelled: Callable[[], bool]
) -> bool:
    """False when it was cancelled, before it began or while it ran."""
    if is_cancelled():
        return False
    options = RunOptions()
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(options, over, is_cancelled), daemon=True)
    if is_long:
        watcher.start()
    try:
        session.run_with_iobinding(binding, options)
    except Exception:
        # The runtime's error has no type of its own.
        if not options.terminate:
            raise
        return False
    finally:
        over.set()
        if is_long:
            watcher.join()
    return True


def _watch(options: RunOptions, over: threading.Event, is_cancelled: Callable[[], bool]) -> None:
    while not over.wait(_LOOK_S):
        if is_cancelled():
            options.terminate = True
            return
