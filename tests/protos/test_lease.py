"""Leases under the worst that links and clocks do: never does a job run in two places by right."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from protos import lease
from protos.lease import Instant

TERM_S = 60
LOOK_S = 2.5


@dataclass
class Machine:
    """Its clock starts anywhere at each boot, and runs a little too fast or too slow."""

    rate: float
    offset_ns: int
    boots: int = 0

    def now(self, true_s: float) -> Instant:
        return Instant(f"boot-{self.boots}", self.offset_ns + round(true_s * self.rate * 1e9))

    def reboot(self, true_s: float) -> None:
        self.boots += 1
        self.offset_ns = -round(true_s * self.rate * 1e9)


@dataclass
class World:
    """One device that runs a job, one controller that grants its lease, and what lies between."""

    device: Machine
    controller: Machine
    true_s: float = 1000.0
    end_ns: int = 0
    granted: Instant | None = None
    is_moved: bool = False
    # When what arrives: heartbeats on their way up, grants on their way down.
    up: list[tuple[float, Instant]] = field(default_factory=list)
    down: list[tuple[float, Instant]] = field(default_factory=list)
    down_after_s: float = 0.0

    def wait(self, seconds: float) -> None:
        """Delivers what is due, in the order of time, and looks after each whether it is right."""
        until_s = self.true_s + seconds
        while due := [when for when, _ in (*self.up, *self.down) if when <= until_s]:
            self.look_until(min(due))
            for message in [m for m in self.up if m[0] <= self.true_s]:
                self.up.remove(message)
                self.heard(message[1])
            for message in [m for m in self.down if m[0] <= self.true_s]:
                self.down.remove(message)
                now = self.device.now(self.true_s)
                self.end_ns = max(self.end_ns, lease.end_ns(message[1], now, TERM_S))
        self.look_until(until_s)

    def look_until(self, until_s: float) -> None:
        while self.true_s < until_s:
            self.check()
            self.true_s = min(until_s, self.true_s + LOOK_S)
        self.check()

    def heard(self, stamp: Instant) -> None:
        if not self.is_moved:
            self.granted = self.controller.now(self.true_s)
            self.down.append((self.true_s + self.down_after_s, stamp))

    def reboot_controller(self) -> None:
        self.controller.reboot(self.true_s)
        if self.granted is not None:
            self.granted = self.controller.now(self.true_s)

    def reboot_device(self) -> None:
        self.device.reboot(self.true_s)
        self.end_ns = 0

    def check(self) -> None:
        """The controller moves the job at the first moment at which it may."""
        now = self.controller.now(self.true_s)
        if self.granted is not None:
            self.is_moved = self.is_moved or lease.is_over(self.granted, now, TERM_S)
        if self.is_moved:
            assert self.device.now(self.true_s).boottime_ns >= self.end_ns


SECONDS = st.floats(0, 200)
ACTIONS = st.one_of(
    st.tuples(st.just("heartbeat"), SECONDS, SECONDS, st.integers(1, 3)),
    st.tuples(st.just("wait"), SECONDS),
    st.just(("reboot the device",)),
    st.just(("reboot the controller",)),
)
# A tenth of the drift that the margin is for, on each side.
RATES = st.floats(0.999, 1.001)
OFFSETS = st.integers(0, 10**18)


@given(RATES, RATES, OFFSETS, OFFSETS, st.lists(ACTIONS, max_size=30))
def test_what_has_been_moved_runs_nowhere_else(
    device_rate: float,
    controller_rate: float,
    device_offset_ns: int,
    controller_offset_ns: int,
    actions: list[tuple[str, float, float, int]],
) -> None:
    world = World(
        Machine(device_rate, device_offset_ns), Machine(controller_rate, controller_offset_ns)
    )
    for action, *values in actions:
        if action == "heartbeat":
            up_s, world.down_after_s, times = values
            stamp = world.device.now(world.true_s)
            # Sent once, and arrives up to three times.
            world.up += [(world.true_s + up_s * n, stamp) for n in range(1, int(times) + 1)]
            world.wait(0)
        elif action == "wait":
            world.wait(values[0])
        elif action == "reboot the device":
            world.reboot_device()
        else:
            world.reboot_controller()
    world.wait(2000)
    assert world.granted is None or world.is_moved, "a lease that nobody renews ends"


def test_a_late_grant_lengthens_nothing() -> None:
    stamp, late = Instant("b", 10), Instant("b", 500_000_000_000)
    assert lease.end_ns(stamp, Instant("b", 10), TERM_S) == lease.end_ns(stamp, late, TERM_S)


def test_a_stamp_of_another_boot_or_of_the_future_grants_nothing() -> None:
    now = Instant("boot-2", 1000)
    assert lease.end_ns(Instant("boot-1", 10), now, TERM_S) == 0
    assert lease.end_ns(Instant("boot-2", 1001), now, TERM_S) == 0


def test_a_restarted_controller_knows_of_no_lease_that_is_over() -> None:
    assert not lease.is_over(Instant("boot-1", 0), Instant("boot-2", 10**15), TERM_S)


def test_two_grants_may_be_lost() -> None:
    for term_s in (6, 60, 1800, 10**6):
        assert 3 * lease.renewal_period_s(term_s) <= term_s
