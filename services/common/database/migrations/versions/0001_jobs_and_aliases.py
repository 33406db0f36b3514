"""Jobs and aliases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates both tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(128)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("total_steps", sa.BigInteger, nullable=False),
        sa.Column("eta_seconds", sa.Double, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("checkpoint", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_expires", sa.Double),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("update_time", sa.Double, nullable=False),
        sa.UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_idempotency_key"),
    )
    op.create_index("ix_jobs_tenant_create_time", "jobs", ["tenant", "create_time"])
    op.create_index("ix_jobs_state_create_time", "jobs", ["state", "create_time"])
    op.create_table(
        "alias_history",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("alias", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("classifier_id", sa.String(63), nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("rollback_time", sa.Double),
    )


def downgrade() -> None:
    """Drops both tables."""
    op.drop_table("alias_history")
    op.drop_table("jobs")
