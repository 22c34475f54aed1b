from pathlib import Path

import pytest

from tests.jetson import trees
from tests.jetson.trees import write

PASSWD = "root:x:0:0:root:/root:/bin/bash\n"
GROUP = "root:x:0:\nvideo:x:44:\nrender:x:109:\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root folder of a Nano's image: what the kernel shows, and the files of its users."""
    root = write(trees.NANO, tmp_path / "image")
    for name, text in (
        ("passwd", PASSWD),
        ("group", GROUP),
        ("shadow", "root:*:19000:0:99999:7:::\n"),
        ("gshadow", "root:*::\nvideo:!::\nrender:!::\n"),
        ("login.defs", "SYS_UID_MIN 100\nSYS_UID_MAX 999\nSYS_GID_MIN 100\nSYS_GID_MAX 999\n"),
    ):
        (root / "etc" / name).write_text(text)
    return root
