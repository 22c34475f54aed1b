"""What a job that may move needs: where else it may go, its newest grant, where it was before."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("selector", sa.Text, nullable=False, server_default=""),
        sa.Column("granted_boot_id", sa.Text, nullable=False, server_default=""),
        sa.Column("granted_ns", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("jobs", column)
    op.create_table(
        "left_behind",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("generation", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("canceled", sa.Boolean, nullable=False),
    )
    op.create_index("left_behind_by_device", "left_behind", ["device", "canceled"])
