"""A damaged journal is moved aside, and the agent starts with a new one.

A worn card returns other bytes than it was given, now and then. An agent that will not start for
that is no help: it serves, it can train, and it is the way in to the device. So the pages of the
journal are checked at each start (a few milliseconds a megabyte), and a journal that fails is kept
as ``journal.db.damaged`` for whoever wants to read it. The new one has another id: by that the
controller learns that the old one is gone, and decides what becomes of the jobs that were in it.
"""

import logging
from pathlib import Path

from agent.clock import Clock
from agent.jobs.database import Damaged
from agent.jobs.journal import Journal
from agent.jobs.retention import LIMITS, Limits
from artifacts import durable
from artifacts.persisting import Point

_LOG = logging.getLogger(__name__)

SUFFIX = ".damaged"


def opened(path: Path, clock: Clock, limits: Limits = LIMITS) -> Journal:
    """The journal in ``path``, or a new one in its place."""
    try:
        return Journal(path, clock, limits)
    except Damaged as error:
        aside = _moved_aside(path)
        _LOG.error(
            "The journal was damaged (%s) and is kept as %s. The agent goes on with a new one: "
            "jobs that had not ended are lost here; the controller decides what becomes of them.",
            error,
            aside,
        )
        return Journal(path, clock, limits)


def _moved_aside(path: Path) -> Path:
    """With its log, or what was written last would be missing. The database itself goes last: a
    crash in between leaves one that is found damaged again."""
    aside = path.with_name(path.name + SUFFIX)
    with Point.JOURNAL_QUARANTINED:
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        aside.with_name(f"{aside.name}-wal").unlink(missing_ok=True)
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            log.rename(aside.with_name(f"{aside.name}-wal"))
        path.rename(aside)
        durable.sync_folder(path.parent)
    return aside
