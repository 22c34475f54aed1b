"""Merging an adapter into the weights that its base was made of, in a process of its own.

A machine that can hold the folder twice on its disk is enough: the merge streams.
"""

from collections.abc import Callable
from pathlib import Path

from controller import importing
from controller.records import ImportProgress


async def merge_adapter(
    adapter: Path,
    base: Path,
    target: Path,
    *,
    replace: bool = False,
    on_progress: Callable[[ImportProgress], None] | None = None,
) -> int:
    """Makes the Hugging Face folder ``target`` in bfloat16; returns the bytes of its weights.

    ``adapter`` is a folder as `job result` unpacks it or any PEFT folder, ``base`` the original
    Hugging Face folder. Raises InvalidRequest, WrongBase, AlreadyExists, NotFound, DiskFull; then,
    and when it is cancelled, ``target`` is as it was.
    """
    arguments = ["merge", str(adapter), str(base), str(target)]
    if replace:
        arguments.append("--replace")
    done = await importing.in_child(arguments, on_progress)
    size = done["size_bytes"]
    assert isinstance(size, int)
    return size
