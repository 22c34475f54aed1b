"""Every point at which this program makes something last: before it the old state holds, after it
the new one.

Power goes at any of them, so what a process leaves there must be something that the next one can
start from. Whatever syncs, renames or commits does it in ``with Point.X:``, and the functions of
durable.py take the point from their callers; tests/faults reads this list, kills the process before
and after each point, and fails for one that its table does not know.

Passing a point costs two calls of an almost empty method. Only with ``NANOFLEET_KILL`` in its
environment, as in those tests, a process kills itself there, once:

    NANOFLEET_KILL=journal.transition:after:2:/a/file    after the second passing; the file, made
                                                         then, keeps its successors alive
"""

import enum
import os
import signal
import threading
from pathlib import Path
from types import TracebackType

VARIABLE = "NANOFLEET_KILL"
BEFORE, AFTER = "before", "after"


class Point(enum.Enum):
    # Anywhere
    FOLDER_MADE = "folder.made"

    # The agent: installing, joining, starting
    SERVICE_WRITTEN = "service.written"
    SERVICE_ENABLED = "service.enabled"
    DEVICE_IDENTITY_PART = "device_identity.part"
    DEVICE_IDENTITY_MOVED = "device_identity.moved"
    DEVICE_IDENTITY_TAKEN = "device_identity.taken"
    BALLAST_GIVEN_UP = "ballast.given_up"
    BALLAST_MADE = "ballast.made"
    RING_RESIZED = "ring.resized"
    TELEMETRY_SYNCED = "telemetry.synced"
    JOURNAL_OPENED = "journal.opened"
    JOURNAL_QUARANTINED = "journal.quarantined"

    # The agent's journal: one transaction each
    JOURNAL_SUBMITTED = "journal.submitted"
    JOURNAL_TRANSITION = "journal.transition"
    JOURNAL_PROGRESS = "journal.progress"
    JOURNAL_EVALUATED = "journal.evaluated"
    JOURNAL_CHECKPOINT = "journal.checkpoint"
    JOURNAL_LOG = "journal.log"
    JOURNAL_DECIDED = "journal.decided"
    JOURNAL_REHEARSED = "journal.rehearsed"
    JOURNAL_DEVICE = "journal.device"
    JOURNAL_ACKNOWLEDGED = "journal.acknowledged"
    JOURNAL_PRUNED = "journal.pruned"

    # The agent, around a job
    WORKER_NOTED = "worker.noted"
    CALIBRATION_KEPT = "calibration.kept"
    POWER_NOTED = "power.noted"
    POWER_FORGOTTEN = "power.forgotten"
    JOB_TIDIED = "job.tidied"

    # The training worker
    TOKENS_WRITTEN = "tokens.written"
    CHECKPOINT_WRITTEN = "checkpoint.written"
    CHECKPOINT_DROPPED = "checkpoint.dropped"
    ADAPTER_PART = "adapter.part"
    ADAPTER_PACKED = "adapter.packed"
    ADAPTER_PUBLISHED = "adapter.published"

    # The worker that generates; its dataset is packed as the controller's are
    ANSWERS_BEGUN = "answers.begun"
    ANSWERS_SYNCED = "answers.synced"
    ANSWERS_GATHERED = "answers.gathered"

    # Serving: the agent, and its inference worker
    SERVED_NOTED = "served.noted"
    SERVED_FORGOTTEN = "served.forgotten"
    ADAPTER_UNPACKED = "adapter.unpacked"
    ENGINE_PROVED = "engine.proved"
    GRAPH_PART = "graph.part"
    GRAPH_EXPORTED = "graph.exported"

    # A store of artifacts, the agent's or the controller's
    UPLOAD_BEGUN = "upload.begun"
    UPLOAD_BYTES = "upload.bytes"
    UPLOAD_OFFSET = "upload.offset"
    UPLOAD_ENDED = "upload.ended"
    UPLOAD_REPAIRED = "upload.repaired"
    STORE_RECORD = "store.record"
    STORE_OBJECT = "store.object"
    STORE_PIECES = "store.pieces"
    STORE_REMOVED = "store.removed"

    # The controller's folder
    AUTHORITY_PART = "authority.part"
    AUTHORITY_MADE = "authority.made"
    CONTROLLER_IDENTITY_PART = "controller_identity.part"
    DATASET_PACKED = "dataset.packed"
    DATASET_UNPACKED = "dataset.unpacked"
    DOWNLOAD_NAMED = "download.named"

    # The controller's database: one transaction each
    FLEET_OPENED = "fleet.opened"
    FLEET_NAMED = "fleet.named"
    FLEET_INVITED = "fleet.invited"
    FLEET_JOINED = "fleet.joined"
    FLEET_LABELLED = "fleet.labelled"
    FLEET_REMOVED = "fleet.removed"
    FLEET_SEEN = "fleet.seen"
    FLEET_CATALOGUED = "fleet.catalogued"
    FLEET_FORGOTTEN = "fleet.forgotten"
    FLEET_ASSIGNED = "fleet.assigned"
    FLEET_CONFIRMED = "fleet.confirmed"
    FLEET_LEASED = "fleet.leased"
    FLEET_COLLECTED = "fleet.collected"
    FLEET_KEY_MADE = "fleet.key_made"
    FLEET_KEY_REVOKED = "fleet.key_revoked"

    # Conversion and merging
    MODEL_CONVERTED = "model.converted"
    MERGE_PART = "merge.part"
    MERGED = "merged"

    def __enter__(self) -> None:
        if _order is not None:
            _order.passed(self, BEFORE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if _order is not None and kind is None:
            _order.passed(self, AFTER)


class _Order:
    """To die at a point: which one, on which side of it, at which passing."""

    def __init__(self, text: str) -> None:
        name, self._side, passing, mark = text.split(":", 3)
        self._point = Point(name)
        self._left = int(passing)
        self._mark = Path(mark)
        self._lock = threading.Lock()

    def passed(self, point: Point, side: str) -> None:
        if (point, side) != (self._point, self._side):
            return
        with self._lock:
            self._left -= 1
            if self._left or self._mark.exists():
                return
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # another thread may be the one that takes the signal


_order = _Order(os.environ[VARIABLE]) if VARIABLE in os.environ else None
