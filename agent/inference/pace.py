"""How long a request takes on this device, as measured, and when one that finds no place should
come again.

Its time is an exponential mean of what the last requests took in the engine, so that it follows a
change of model or of their length. Whoever is told to wait until half of the line is gone finds a
place even when all who were told so come at once, and the device is never idle meanwhile.
"""

WEIGHT = 0.2
# Before the first request has ended nothing is known, and a short wait costs one more refusal.
UNKNOWN_S = 1.0
LEAST_S = 0.1


class Pace:
    """``streams``: how many requests are answered at once."""

    def __init__(self, streams: int = 1) -> None:
        self._streams = streams
        self._mean_s: float | None = None

    def note(self, service_s: float) -> None:
        """A request took so long, its waiting not counted."""
        before = service_s if self._mean_s is None else self._mean_s
        self._mean_s = before + WEIGHT * (service_s - before)

    def retry_after_s(self, waiting: int) -> float:
        """Until half of ``waiting`` requests are answered."""
        mean_s = UNKNOWN_S if self._mean_s is None else self._mean_s
        return max(LEAST_S, mean_s * max(1.0, waiting / 2 / self._streams))
