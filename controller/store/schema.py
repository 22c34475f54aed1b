"""The tables, as the newest migration leaves them.

    fleet ─ key, value                       name of the fleet, when it was made

    devices ─ name ◀──────────────┐          who has joined, where it listens
              address, enrolment, │          enrolment: which joining (in the certificate)
              labels, facts,      │          labels JSON; facts nanofleet.v1.Device
              joined_utc_ns,      │
              last_seen_utc_ns    │
                                  │
    cursors ─ device ─────────────┤          how far a device's journal was collected
              journal_id, seq     │
                                  │
    tokens  ─ id                  │          invitations; spent once
              device ─────────────┤
              secret_sha256,      │
              labels, expires_utc_ns, spent_utc_ns
                                  │
    jobs    ─ id ◀─────┐          │          what was asked, and the newest picture of it
              device ──┼──────────┘          generation: fences events of older assignments
              name, generation,   state, spec (bytes), job (nanofleet.v1.Job),
              journal_id, created_utc_ns,    journal_id: the journal that holds the job
              selector, granted_boot_id,     granted: the newest grant of its lease, by the clock
              granted_ns                     and the boot of the machine that this file is on
                       │
    left_behind        │                     assignments that were moved away from a device
      (job_id, generation)                   canceled: the device has heard of it
      device, canceled │
                       │
    events  ─ (device, journal_id, seq)      a copy of the devices' journals
              job_id ──┘
              body                           nanofleet.v1.JobEvent

    artifacts ─ digest ◀───┐                 details JSON, see records.CatalogueEntry
                kind, size_bytes, details, added_utc_ns
    names   ─ (kind, name) │                 a name moves when it is given to other bytes
              digest ──────┘

    api_keys ─ id                            who may ask over HTTP; a revoked key stays
               name, role, secret_sha256,    role: protos.identity.Role
               created_utc_ns, expires_utc_ns, revoked_utc_ns

The arrows are not foreign keys, except names → artifacts: a device can be removed and its jobs and
events stay, as the record of what was done.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

# What `alembic_version` says when the database is as described above; a test holds that this is
# the newest migration.
REVISION = "0003"

metadata = MetaData()

fleet = Table(
    "fleet",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("name", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("enrolment", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    Column("joined_utc_ns", BigInteger, nullable=False),
    Column("last_seen_utc_ns", BigInteger, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("device", Text, primary_key=True),
    Column("journal_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("device", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("labels", Text, nullable=False),
    Column("expires_utc_ns", BigInteger, nullable=False),
    Column("spent_utc_ns", BigInteger, nullable=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("state", Integer, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("job", LargeBinary, nullable=False),
    Column("journal_id", Text, nullable=False),
    Column("created_utc_ns", BigInteger, nullable=False),
    Column("selector", Text, nullable=False, server_default=""),
    Column("granted_boot_id", Text, nullable=False, server_default=""),
    Column("granted_ns", BigInteger, nullable=False, server_default="0"),
    Index("jobs_by_device", "device", "state"),
    Index("jobs_by_name", "name", "created_utc_ns"),
)

left_behind = Table(
    "left_behind",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("device", Text, nullable=False),
    Column("canceled", Boolean, nullable=False),
    Index("left_behind_by_device", "device", "canceled"),
)

events = Table(
    "events",
    metadata,
    Column("device", Text, primary_key=True),
    Column("journal_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("events_by_job", "job_id", "seq"),
    sqlite_with_rowid=False,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("kind", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("details", Text, nullable=False),
    Column("added_utc_ns", BigInteger, nullable=False),
)

names = Table(
    "names",
    metadata,
    Column("kind", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("digest", Text, ForeignKey("artifacts.digest"), nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("created_utc_ns", BigInteger, nullable=False),
    Column("expires_utc_ns", BigInteger, nullable=True),
    Column("revoked_utc_ns", BigInteger, nullable=True),
)
