"""What a board under load draws, and how its heat follows: pure, no file and no clock.

power above rest = load × busy_mw
heat above rest → power × celsius_per_w, with one time constant (Newton's law of cooling)
"""

import math

from jetson.simulation.boards import Draw


class Plant:
    """A board that has been at rest for long."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.power_mw = 0.0
        self.rise_celsius = 0.0

    def pass_time(self, seconds: float, load: float) -> None:
        """``load``: the share of all cores that was busy in these seconds, 0 to 1."""
        self.power_mw = min(1.0, max(0.0, load)) * self._draw.busy_mw
        steady_celsius = self.power_mw / 1000 * self._draw.celsius_per_w
        left = math.exp(-max(0.0, seconds) / self._draw.time_constant_s)
        self.rise_celsius = steady_celsius + (self.rise_celsius - steady_celsius) * left
