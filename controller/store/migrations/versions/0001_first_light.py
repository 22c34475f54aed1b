"""The first schema. See controller/store/schema.py, where it is drawn.

A migration repeats the tables instead of importing them: it must go on meaning the same when the
schema has moved on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _fleet_and_devices()
    _jobs_and_events()
    _artifacts()


def _fleet_and_devices() -> None:
    op.create_table(
        "fleet",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "devices",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("enrolment", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("joined_utc_ns", sa.BigInteger, nullable=False),
        sa.Column("last_seen_utc_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "cursors",
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("journal_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("expires_utc_ns", sa.BigInteger, nullable=False),
        sa.Column("spent_utc_ns", sa.BigInteger, nullable=True),
    )


def _jobs_and_events() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("job", sa.LargeBinary, nullable=False),
        sa.Column("journal_id", sa.Text, nullable=False),
        sa.Column("created_utc_ns", sa.BigInteger, nullable=False),
    )
    op.create_index("jobs_by_device", "jobs", ["device", "state"])
    op.create_index("jobs_by_name", "jobs", ["name", "created_utc_ns"])
    op.create_table(
        "events",
        sa.Column("device", sa.Text, primary_key=True),
        sa.Column("journal_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("events_by_job", "events", ["job_id", "seq"])


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("added_utc_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "names",
        sa.Column("kind", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, sa.ForeignKey("artifacts.digest"), nullable=False),
    )
