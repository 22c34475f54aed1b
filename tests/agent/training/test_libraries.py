"""What leaves the process is what its files still have."""

import mmap
import os
import re
from pathlib import Path

from agent.training import libraries

MAPS = """\
55ef66fef000-55ef66ff2000 r--p 00000000 fe:00 260850                     /usr/lib/libone.so
Rss:                  12 kB
Anonymous:             0 kB
Swap:                  0 kB
55ef66ff2000-55ef67006000 r-xp 00003000 fe:00 260850                     /usr/lib/libone.so
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000001000 r--p 00003000 fe:00 260850                     /usr/lib/libone.so
Anonymous:             4 kB
Swap:                  0 kB
7f0000001000-7f0000002000 r--p 00003000 fe:00 260850                     /usr/lib/libone.so
Anonymous:             0 kB
Swap:                  4 kB
7f0000002000-7f0000003000 rw-p 00003000 fe:00 260850                     /usr/lib/libone.so
Anonymous:             0 kB
Swap:                  0 kB
7f0000003000-7f0000004000 r--s 00003000 fe:00 260851                     /models/base.gguf
Anonymous:             0 kB
Swap:                  0 kB
7f0000004000-7f0000005000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7ffc1e5f2000-7ffc1e5f4000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_relocated_shared_writable_and_nameless_pages_stay() -> None:
    assert list(libraries.unchanged(MAPS)) == [
        (0x55EF66FEF000, 0x3000),
        (0x55EF66FF2000, 0x14000),
    ]


def test_pages_leave_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "libmade.so"
    content = os.urandom(64 * mmap.PAGESIZE)
    file.write_bytes(content)
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert mapped[:] == content
    assert resident_kb(file) == 64 * mmap.PAGESIZE // 1024
    libraries.leave_unused()
    assert resident_kb(file) == 0
    assert mapped[:] == content


def resident_kb(file: Path) -> int:
    maps = Path("/proc/self/smaps").read_text()
    found = re.search(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)
    assert found
    return int(found[1])
