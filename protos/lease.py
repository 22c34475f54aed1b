"""The arithmetic of leases, for both sides: until when a job may run that is moved when its device
is lost.

    device       stamp ────────────────── term ──────────────▶ end: it stops before
                   ╲ heartbeat                  grant ╱
    controller      now, written down ─── term ──────╱─────── margin ──▶ over: it may be moved

A heartbeat carries the device's clock (CLOCK_BOOTTIME: it runs through sleep and is never set), and
the grant echoes that stamp. The device counts from its own stamp, the controller from a later
moment, so the device's end comes first however long heartbeat and grant were under way, and
whatever the two clocks say: a late grant, or an old one that comes again, lengthens nothing. The
only thing that is compared is how fast the clocks run, and the margin is for that.

A stamp belongs to a boot. A device holds no lease after its agent was restarted; a controller whose
machine was restarted counts as if every lease had been granted just now.
"""

from dataclasses import dataclass

_NS = 1_000_000_000
# A quartz is off by 0.01 % at the most; scheduling and suspending are seconds.
_DRIFT = 0.01
_LEAST_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment on a machine's CLOCK_BOOTTIME; comparable within one boot only."""

    boot_id: str
    boottime_ns: int


def end_ns(stamp: Instant, now: Instant, term_s: int) -> int:
    """For the device: when a lease ends that echoes ``stamp``; 0 when it grants nothing.

    A stamp of another boot is worth nothing, and neither is one from the future.
    """
    if stamp.boot_id != now.boot_id or stamp.boottime_ns > now.boottime_ns:
        return 0
    return stamp.boottime_ns + term_s * _NS


def is_over(granted: Instant, now: Instant, term_s: int) -> bool:
    """For the controller: whether a lease that it granted then has ended by any device's clock."""
    waited_ns = now.boottime_ns - granted.boottime_ns
    return granted.boot_id == now.boot_id and waited_ns >= over_after_s(term_s) * _NS


def over_after_s(term_s: int) -> float:
    """How long after its last grant a lease is certainly over."""
    return term_s + max(_LEAST_MARGIN_S, term_s * _DRIFT)


def renewal_period_s(term_s: int) -> float:
    """How often whoever follows a job grants its lease anew: two grants may be lost."""
    return min(60.0, term_s / 3)
