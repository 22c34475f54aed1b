"""The kill table: for each persist point, whose death in which story passes it.

    story        who tells it, and what it leaves
    birth        a fleet is made, and a device joins it
    rejoin       the device joins again
    stock        a model and a dataset are added to the catalogue
    life         a job, from its files to its adapter; an artifact comes and goes
    powered      a life in another power mode
    teaching     a model answers a dataset, and the answers become a file
    hello        the agent starts and answers; the settings of the row came before
    speech       the adapter of a job answers
    graph        the same, with the engine that exports a graph
    yielding     a job makes room for a request, and is canceled
    forgetting   a job whose events the device lets go of, as it keeps none
    quarantine   the agent starts with a damaged journal
    repair       a large upload, of which a byte changes on the device
    full         the agent starts on a disk that is full
    farewell     an API key is made and revoked; the device is removed
    import       a model is converted, in a process of its own
    adopt        an adapter of another machine is imported, converted in a process of its own
    merge        an adapter is merged, in a process of its own
    install      the agent is made a service of an image

A point may have several rows: with another passing, or with another process that passes it. Each
row is played twice, with the kill before and after the point.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from artifacts.persisting import AFTER, BEFORE, Point

AGENT, CONTROLLER = "agent", "controller"


@dataclass(frozen=True, slots=True)
class Row:
    """``who`` is started with the order to die; their workers inherit it."""

    point: Point
    story: str
    who: str
    passing: int = 1

    def __str__(self) -> str:
        nth = f"-{self.passing}" if self.passing > 1 else ""
        return f"{self.story}-{self.who}-{self.point.value}{nth}"


def _rows(story: str, who: str, *points: Point | tuple[Point, int]) -> Iterator[Row]:
    for point in points:
        yield (
            Row(point, story, who, 1)
            if isinstance(point, Point)
            else Row(point[0], story, who, point[1])
        )


TABLE: tuple[Row, ...] = (
    *_rows(
        "birth",
        CONTROLLER,
        Point.FOLDER_MADE,
        Point.AUTHORITY_PART,
        Point.AUTHORITY_MADE,
        Point.CONTROLLER_IDENTITY_PART,
        (Point.CONTROLLER_IDENTITY_PART, 2),
        Point.FLEET_OPENED,
        Point.FLEET_NAMED,
        Point.FLEET_INVITED,
        Point.DEVICE_IDENTITY_PART,
        (Point.DEVICE_IDENTITY_PART, 3),
        Point.DEVICE_IDENTITY_TAKEN,
        Point.FLEET_JOINED,
        Point.FLEET_LABELLED,
    ),
    *_rows("rejoin", CONTROLLER, Point.DEVICE_IDENTITY_MOVED, Point.DEVICE_IDENTITY_TAKEN),
    *_rows(
        "stock",
        CONTROLLER,
        Point.DATASET_PACKED,
        Point.UPLOAD_OFFSET,
        Point.STORE_OBJECT,
        Point.FLEET_CATALOGUED,
    ),
    *_rows(
        "life",
        AGENT,
        Point.FOLDER_MADE,
        Point.JOURNAL_OPENED,
        Point.BALLAST_MADE,
        Point.TELEMETRY_SYNCED,
        Point.UPLOAD_BEGUN,
        Point.UPLOAD_BYTES,
        Point.UPLOAD_OFFSET,
        (Point.UPLOAD_OFFSET, 4),
        Point.UPLOAD_ENDED,
        Point.STORE_RECORD,
        (Point.STORE_RECORD, 3),
        Point.STORE_OBJECT,
        Point.STORE_REMOVED,
        Point.JOURNAL_SUBMITTED,
        Point.JOURNAL_TRANSITION,
        (Point.JOURNAL_TRANSITION, 2),
        Point.JOURNAL_PROGRESS,
        (Point.JOURNAL_PROGRESS, 12),
        Point.JOURNAL_EVALUATED,
        Point.JOURNAL_CHECKPOINT,
        Point.JOURNAL_LOG,
        Point.JOURNAL_REHEARSED,
        Point.WORKER_NOTED,
        Point.TOKENS_WRITTEN,
        Point.CHECKPOINT_WRITTEN,
        (Point.CHECKPOINT_WRITTEN, 2),
        Point.CHECKPOINT_DROPPED,
        Point.ADAPTER_PART,
        (Point.ADAPTER_PART, 3),
        Point.MODEL_CONVERTED,
        Point.ADAPTER_PACKED,
        Point.ADAPTER_PUBLISHED,
        Point.CALIBRATION_KEPT,
        Point.JOB_TIDIED,
    ),
    *_rows(
        "life",
        CONTROLLER,
        Point.FLEET_SEEN,
        Point.FLEET_ASSIGNED,
        Point.FLEET_CONFIRMED,
        Point.FLEET_COLLECTED,
        (Point.FLEET_COLLECTED, 9),
        Point.UPLOAD_BEGUN,
        Point.UPLOAD_BYTES,
        Point.UPLOAD_ENDED,
        Point.STORE_RECORD,
        Point.DOWNLOAD_NAMED,
        Point.STORE_REMOVED,
        Point.FLEET_FORGOTTEN,
    ),
    *_rows(
        "teaching",
        AGENT,
        Point.ANSWERS_BEGUN,
        Point.ANSWERS_SYNCED,
        (Point.ANSWERS_SYNCED, 2),
        Point.ANSWERS_GATHERED,
        Point.DATASET_PACKED,
        Point.JOURNAL_CHECKPOINT,
    ),
    *_rows("powered", AGENT, Point.POWER_NOTED, (Point.POWER_NOTED, 2), Point.POWER_FORGOTTEN),
    *_rows("teaching", CONTROLLER, Point.DATASET_UNPACKED),
    *_rows("hello", AGENT, Point.RING_RESIZED),
    *_rows(
        "speech",
        AGENT,
        Point.ADAPTER_PART,
        Point.ADAPTER_UNPACKED,
        Point.ENGINE_PROVED,
        Point.SERVED_NOTED,
        (Point.SERVED_NOTED, 2),
        Point.SERVED_FORGOTTEN,
    ),
    *_rows("graph", AGENT, Point.GRAPH_PART, (Point.GRAPH_PART, 2), Point.GRAPH_EXPORTED),
    *_rows("yielding", AGENT, Point.JOURNAL_DECIDED, Point.JOURNAL_DEVICE),
    *_rows("yielding", CONTROLLER, Point.FLEET_LEASED),
    *_rows(
        "forgetting",
        AGENT,
        Point.JOURNAL_ACKNOWLEDGED,
        (Point.JOURNAL_ACKNOWLEDGED, 2),
        Point.JOURNAL_PRUNED,
    ),
    *_rows("quarantine", AGENT, Point.JOURNAL_QUARANTINED),
    *_rows("repair", AGENT, Point.UPLOAD_REPAIRED, Point.STORE_PIECES),
    *_rows("repair", CONTROLLER, Point.STORE_PIECES),
    *_rows("full", AGENT, Point.BALLAST_GIVEN_UP),
    *_rows(
        "farewell",
        CONTROLLER,
        Point.FLEET_KEY_MADE,
        Point.FLEET_KEY_REVOKED,
        Point.FLEET_REMOVED,
    ),
    *_rows("import", CONTROLLER, Point.MODEL_CONVERTED),
    *_rows(
        "adopt",
        CONTROLLER,
        Point.MODEL_CONVERTED,
        Point.ADAPTER_PACKED,
        Point.STORE_OBJECT,
        Point.FLEET_CATALOGUED,
    ),
    *_rows("merge", CONTROLLER, Point.MERGE_PART, Point.MERGED),
    *_rows(
        "install",
        AGENT,
        Point.SERVICE_WRITTEN,
        (Point.SERVICE_WRITTEN, 2),
        Point.SERVICE_ENABLED,
    ),
)

# Of `make test`: the acts that cost most if they were wrong, some on each side.
SHORT = frozenset(
    {
        ("life", AGENT, Point.JOURNAL_SUBMITTED, 1, AFTER),
        ("life", AGENT, Point.JOURNAL_TRANSITION, 2, BEFORE),
        ("life", AGENT, Point.CHECKPOINT_WRITTEN, 1, AFTER),
        ("life", AGENT, Point.UPLOAD_OFFSET, 1, AFTER),
        ("life", CONTROLLER, Point.FLEET_ASSIGNED, 1, AFTER),
        ("life", CONTROLLER, Point.FLEET_COLLECTED, 1, BEFORE),
        ("birth", CONTROLLER, Point.AUTHORITY_MADE, 1, AFTER),
    }
)


def cases(*, every: bool) -> list[tuple[Row, str]]:
    return [
        (row, side)
        for row in TABLE
        for side in (BEFORE, AFTER)
        if every or (row.story, row.who, row.point, row.passing, side) in SHORT
    ]
