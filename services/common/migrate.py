"""`python -m services.common.migrate` brings the job database to the newest schema, and ends."""

from __future__ import annotations

import logging
import sys

from services.common.job_database import migrate
from services.common.logs import configure_logging
from services.common.settings import CommonSettings, SettingsError

log = logging.getLogger(__name__)


def main() -> int:
    """Migrates ``CYTOSYNTH_DATABASE_URL``; returns the exit status. Again does nothing."""
    configure_logging()
    try:
        migrate(CommonSettings.load().database_url)
    except SettingsError as error:
        log.error("%s", error)
        return 2
    log.info("the job database has the newest schema")
    return 0


if __name__ == "__main__":
    sys.exit(main())
