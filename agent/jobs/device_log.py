"""What was decided about the device and not about a job: kept in the journal, in its one sequence.

Events without a job are the device's. They go when there are many: nobody's result hangs on them.
"""

from agent.clock import Clock, moment
from agent.jobs.database import Database, Sync
from artifacts.persisting import Point
from protos.nanofleet.v1.device_pb2 import DeviceEvent

MOST_KEPT = 1000
_OURS = "job_id=''"


class DeviceLog:
    """Blocking, in the journal's thread."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock

    def add(self, event: DeviceEvent) -> None:
        event.at.CopyFrom(moment(self._clock))
        with self._db.transaction(Sync.SOON, Point.JOURNAL_DEVICE):
            self._db.execute(
                "INSERT INTO event (job_id, record) VALUES ('', ?)", (event.SerializeToString(),)
            )
            self._db.execute(
                f"DELETE FROM event WHERE {_OURS} AND seq <= (SELECT seq FROM event"
                f" WHERE {_OURS} ORDER BY seq DESC LIMIT 1 OFFSET {MOST_KEPT})"
            )

    def events(self, after_seq: int, limit: int) -> list[DeviceEvent]:
        """The first ones with a greater number, in order."""
        query = f"SELECT seq, record FROM event WHERE {_OURS} AND seq>? ORDER BY seq LIMIT ?"
        rows = self._db.execute(query, (after_seq, limit))
        return [_numbered(row["seq"], row["record"]) for row in rows]

    def newest(self, limit: int) -> list[DeviceEvent]:
        """The last ones, in order."""
        query = f"SELECT seq, record FROM event WHERE {_OURS} ORDER BY seq DESC LIMIT ?"
        rows = self._db.execute(query, (limit,)).fetchall()
        return [_numbered(row["seq"], row["record"]) for row in reversed(rows)]


def _numbered(seq: int, record: bytes) -> DeviceEvent:
    event = DeviceEvent.FromString(record)
    event.seq = seq
    return event
