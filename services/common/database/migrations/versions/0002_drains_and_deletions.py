"""Drains and deletions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both tables and leaves those of 0001 to older code."""
    op.create_table(
        "drains",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
    )
    op.create_table(
        "deletions",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(127), primary_key=True),
        sa.Column("request_time", sa.Double, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("num_objects", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drops both; export the deletions before (``python -m services.common.deletions export``)."""
    op.drop_table("deletions")
    op.drop_table("drains")
