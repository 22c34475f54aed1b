"""Root folders of systems, for what installs into one."""

from pathlib import Path

from tests.jetson import trees
from tests.jetson.trees import write

PASSWD = "root:x:0:0:root:/root:/bin/bash\n"
_FILES = {
    "passwd": PASSWD,
    "group": "root:x:0:\nvideo:x:44:\nrender:x:109:\n",
    "shadow": "root:*:19000:0:99999:7:::\n",
    "gshadow": "root:*::\nvideo:!::\nrender:!::\n",
    "login.defs": "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n",
}


def make(folder: Path) -> Path:
    """Of a Nano: what the kernel shows, and the files of its users."""
    root = write(trees.NANO, folder)
    for name, text in _FILES.items():
        (root / "etc" / name).write_text(text)
    return root
