"""Jobs remember the call that asked for them.

Both columns have a default, so that services of the version before go on writing jobs meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds request id and traceparent."""
    for name in ("request_id", "traceparent"):
        column = sa.Column(name, sa.String(64), nullable=False, server_default="")
        op.add_column("jobs", column)


def downgrade() -> None:
    """Drops them."""
    with op.batch_alter_table("jobs") as table:
        table.drop_column("traceparent")
        table.drop_column("request_id")
