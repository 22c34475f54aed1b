"""Opening files that people name: a folder or a named pipe is refused, not waited for."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from protos.errors import InvalidRequest, NotFound


def open_to_read(path: Path) -> BinaryIO:
    """The file, open; NotFound or InvalidRequest, with the path, when it cannot be read."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", fix="Check the path.") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read.", why=f"{error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(f"{path} is no regular file.", fix="Name a file.")
    return os.fdopen(descriptor, "rb")
