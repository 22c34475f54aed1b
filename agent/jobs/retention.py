"""How long the journal keeps what ended jobs have told: until their controller has it, and room is
wanted.

    of an ended job               kept
    the job, its attempts         for ever: a second submission is known by them, and `job show`
                                  explains the end
    changes of its state          for ever: whoever copies the journal anew learns how it ended
    its other events (details)    while all details together take less than keep_bytes; above that
                                  the oldest jobs' go, of those that were acknowledged
                                  above most_bytes the oldest go in any case

Where details were, one event in their place says how many there were, and whether a controller had
acknowledged them: no gap is silent. A controller acknowledges what it has in a store of its own,
by its cursor, whenever it opens a stream. By size and not by age: a device's clock may be wrong.

SQLite writes new events into the pages of those that are gone, so the file does not shrink, and
grows no further either. A job goes in slices of a transaction each, so that nobody waits long for
the journal's thread; one that was broken off goes on at the next start.
"""

import logging
from dataclasses import dataclass

from agent.jobs.database import Database, Sync
from artifacts.persisting import Point
from protos.nanofleet.v1.job_pb2 import EventsPruned, JobEvent

_LOG = logging.getLogger(__name__)

# Events of a transaction: some 20 ms of an SD card.
SLICE = 1000
_KEPT = ("transition", "pruned")
_ACKNOWLEDGED = "acknowledged"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the details of all ended jobs. The pages of the journal are checked at each start of the
    agent, some milliseconds for each MiB: that is what they are for."""

    keep_bytes: int = 32 << 20
    most_bytes: int = 128 << 20


LIMITS = Limits()


class Retention:
    """Blocking, in the journal's thread."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._db = database
        self._limits = limits
        # The job that is being pruned, and up to where it was.
        self._at = ("", 0)
        # Nothing has to go before another job ends, or more is acknowledged.
        self._is_settled = False

    @property
    def acknowledged_seq(self) -> int:
        return int(self._db.get(_ACKNOWLEDGED) or 0)

    def acknowledge(self, seq: int) -> None:
        """A controller has everything up to there. A number that was never given means nothing."""
        newest = self._db.row("SELECT COALESCE(MAX(seq), 0) AS seq FROM event")
        seq = min(seq, newest["seq"] if newest else 0)
        if seq > self.acknowledged_seq:
            with self._db.transaction(Sync.SOON, Point.JOURNAL_ACKNOWLEDGED):
                self._db.set(_ACKNOWLEDGED, str(seq))
            self._is_settled = False

    def ended(self, job_id: str) -> None:
        """Counts what the job leaves; a part of the transaction of its end."""
        self._db.execute(
            "UPDATE job SET details_bytes=(SELECT COALESCE(SUM(LENGTH(record)), 0) FROM event"
            " WHERE job_id=job.id) WHERE id=?",
            (job_id,),
        )
        self._is_settled = False

    def prune(self) -> bool:
        """Lets go of a slice, if there is something to let go of; returns whether there was."""
        job_id = None if self._is_settled else self._chosen()
        if job_id is None:
            self._is_settled = True
            return False
        after_seq = self._at[1] if self._at[0] == job_id else 0
        query = "SELECT seq, record FROM event WHERE job_id=? AND seq>? ORDER BY seq LIMIT ?"
        rows = self._db.execute(query, (job_id, after_seq, SLICE)).fetchall()
        events = [(row["seq"], JobEvent.FromString(row["record"])) for row in rows]
        details = [(seq, event) for seq, event in events if event.WhichOneof("body") not in _KEPT]
        with self._db.transaction(Sync.SOON, Point.JOURNAL_PRUNED):
            if details:
                self._replace(details)
            if len(rows) < SLICE:
                self._db.execute("UPDATE job SET details_bytes=0 WHERE id=?", (job_id,))
        self._at = (job_id, events[-1][0]) if events else ("", 0)
        return True

    def _chosen(self) -> str | None:
        """The job whose details go next; None: there is room."""
        total = self._db.row(
            "SELECT COALESCE(SUM(details_bytes), 0) AS bytes FROM job WHERE details_bytes>0"
        )
        size_bytes = total["bytes"] if total else 0
        if size_bytes <= self._limits.keep_bytes:
            return None
        oldest = "SELECT id FROM job WHERE details_bytes>0 {} ORDER BY position LIMIT 1"
        is_copied = "AND (SELECT MAX(seq) FROM event WHERE job_id=job.id)<=?"
        found = self._db.row(oldest.format(is_copied), (self.acknowledged_seq,))
        if found is None and size_bytes > self._limits.most_bytes:
            found = self._db.row(oldest.format(""))
        return None if found is None else str(found["id"])

    def _replace(self, details: list[tuple[int, JobEvent]]) -> None:
        """By one event in the place of the last of them, and of its attempt and time."""
        for seq, _ in details[:-1]:
            self._db.execute("DELETE FROM event WHERE seq=?", (seq,))
        last_seq, told = details[-1]
        is_copied = last_seq <= self.acknowledged_seq
        if not is_copied:
            _LOG.warning(
                "job %s: the journal is full; %d of its events go that no controller has: from"
                " number %d to %d", told.job_id, len(details), details[0][0], last_seq,
            )  # fmt: skip
        told.pruned.CopyFrom(
            EventsPruned(events=len(details), first_seq=details[0][0], unacknowledged=not is_copied)
        )
        self._db.execute(
            "UPDATE event SET record=? WHERE seq=?", (told.SerializeToString(), last_seq)
        )
