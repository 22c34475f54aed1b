"""Pages of the libraries that only loading them needed leave the process.

torch registers its thousands of operators when it is loaded, and touches code for it all over its
files: 60 to 70 MB that training never reads again. The pages are clean, so the kernel may keep them
in its cache as long as nobody needs the room; what is wanted again is mapped again.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

_C = ctypes.CDLL(None, use_errno=True)
_C.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_DONTNEED = 4  # the same on all of Linux's architectures that we run on

_MAPS = Path("/proc/self/smaps")
# Read or executed, never written, private, and of a file.
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d*\s+/")
# Pages that are the process's own: relocated ones. They exist nowhere else.
_OWN = re.compile(r"^(?:Anonymous|Swap): +[1-9]", re.MULTILINE)
# Its first line begins with an address, the others with a name.
_ENTRY = re.compile(r"^(?=[0-9a-f]+-)", re.MULTILINE)


def leave_unused() -> None:
    """For a moment between two steps: what is read next comes back page by page."""
    for first, size_bytes in unchanged(_MAPS.read_text()):
        if _C.madvise(first, size_bytes, _DONTNEED):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "madvise")


def unchanged(maps: str) -> Iterator[tuple[int, int]]:
    """Address and size of each mapping in ``maps`` (proc_pid_smaps(5)) that is as in its file."""
    for entry in _ENTRY.split(maps):
        mapping = _MAPPING.match(entry)
        if mapping and not _OWN.search(entry):
            first, last = (int(address, 16) for address in mapping.groups())
            yield first, last - first
