"""The board's memory, shared out: what fits is admitted, what does not is refused with numbers.

The budget is the memory in all, less what the system held when the agent started (measured, before
there was a worker), less a reserve. What a worker will need comes from the forecast; workers that
map the same base model share its pages, so its weights count once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.memory.calibration import Work, measured_bytes
from agent.memory.forecast import Forecast
from jetson.memory import MemoryReading
from protos.errors import OutOfMemory

# For page tables, the page cache of the system's own files, and what the forecast does not know.
RESERVE_FRACTION = 0.05
SMALLEST_RESERVE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Claim:
    """Memory that a worker holds, or asks for."""

    # For people: "training job persona", "the served model".
    owner: str
    base_digest: str
    forecast: Forecast
    # What its measurements are remembered by.
    work: Work | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    total_bytes: int
    system_bytes: int
    reserve_bytes: int
    most_bytes: int = 0

    @classmethod
    def measured(
        cls, memory: MemoryReading, reserve_bytes: int | None = None, most_bytes: int = 0
    ) -> "Budget":
        """From a reading that was taken while no worker runs. ``most_bytes``: what workers may use
        in all; 0: as much as there is."""
        if reserve_bytes is None:
            reserve_bytes = max(SMALLEST_RESERVE_BYTES, int(memory.total_bytes * RESERVE_FRACTION))
        system_bytes = memory.total_bytes - memory.available_bytes
        return cls(memory.total_bytes, system_bytes, reserve_bytes, most_bytes)

    @property
    def usable_bytes(self) -> int:
        """What workers may use in all."""
        left_bytes = max(0, self.total_bytes - self.system_bytes - self.reserve_bytes)
        return min(left_bytes, self.most_bytes) if self.most_bytes else left_bytes

    def free_bytes(self, held: Sequence[Claim]) -> int:
        """What is left beside the claims that are held; negative when they are too many."""
        return self.usable_bytes - needed_bytes(held)

    def fits(self, claim: Claim, held: Sequence[Claim] = ()) -> bool:
        return needed_bytes([*held, claim]) <= self.usable_bytes

    def check(self, claim: Claim, held: Sequence[Claim] = (), fix: str = "") -> None:
        """Raises OutOfMemory, with ``fix`` in it, when the claim does not fit beside the others."""
        if self.fits(claim, held):
            return
        more_bytes = needed_bytes([*held, claim]) - needed_bytes(held)
        raise OutOfMemory(
            f"There is not enough memory for {claim.owner}.",
            why=f"It needs {_mb(more_bytes)}{_shared(claim, held)}{known(claim)} and "
            f"{_mb(max(0, self.free_bytes(held)))} of {_mb(self.usable_bytes)} are free"
            f"{_holders(held)}; the board has {_mb(self.total_bytes)}, of which the system uses "
            f"{_mb(self.system_bytes)} and {_mb(self.reserve_bytes)} are kept in reserve.",
            fix=fix,
        )


def needed_bytes(claims: Sequence[Claim]) -> int:
    """All claims together; the weights of each base model once."""
    weights: dict[str, int] = {}
    for claim in claims:
        # One that rests holds none of the weights that another still reads.
        largest = max(weights.get(claim.base_digest, 0), claim.forecast.weights_bytes)
        weights[claim.base_digest] = largest
    own = (claim.forecast.peak_bytes - claim.forecast.weights_bytes for claim in claims)
    return sum(weights.values()) + sum(own)


def shared_bytes(claim: Claim, held: Sequence[Claim]) -> int:
    """Of the claim's memory, what another claim has brought in already."""
    return claim.forecast.peak_bytes - (needed_bytes([*held, claim]) - needed_bytes(held))


def _shared(claim: Claim, held: Sequence[Claim]) -> str:
    shares = shared_bytes(claim, held) > 0
    return " more (the base model is in memory already)" if shares else ""


def known(claim: Claim) -> str:
    """What of a claim is not foreseen, but was measured before."""
    above_bytes = measured_bytes(claim.forecast)
    return f" ({_mb(above_bytes)} of it as measured before)" if above_bytes else ""


def _holders(held: Sequence[Claim]) -> str:
    if not held:
        return ""
    return " beside " + " and ".join(claim.owner for claim in held)


def _mb(size_bytes: int) -> str:
    return f"{round(size_bytes / 1_000_000):,} MB"
