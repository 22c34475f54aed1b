"""The calibration on the disk: calibration.json in the state folder.

It can be measured again at any time, so one that cannot be read, or is another version's, is left
aside with a line in the log, and the next measurement replaces it.
"""

import logging
from pathlib import Path

from agent.memory import calibration
from agent.memory.calibration import Calibration
from artifacts import durable
from artifacts.persisting import Point

_LOG = logging.getLogger(__name__)

FILE = "calibration.json"
_MOST_BYTES = 1 << 20


class CalibrationFile:
    """Blocking. ``version``: the agent's."""

    def __init__(self, path: Path, version: str) -> None:
        self._path = path
        self._version = version

    def load(self) -> Calibration:
        try:
            with self._path.open("rb") as file:
                return calibration.read(file.read(_MOST_BYTES), self._version)
        except FileNotFoundError:
            return Calibration()
        except (OSError, ValueError, RecursionError) as error:
            _LOG.warning("%s is not used, forecasts begin anew: %s", self._path, error)
            return Calibration()

    def save(self, known: Calibration) -> None:
        try:
            content = calibration.written(known, self._version)
            durable.write_bytes(self._path, content, Point.CALIBRATION_KEPT)
        except OSError as error:
            _LOG.warning("what workers took is not kept in %s: %s", self._path, error)
