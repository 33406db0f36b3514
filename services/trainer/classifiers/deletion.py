"""Keeps a classifier that an alias still points at from being deleted."""

from __future__ import annotations

from services.common import resource_names
from services.common.database.jobs import JobDatabase
from services.common.errors import FailedPrecondition
from services.common.resource_names import ALIASES, CLASSIFIERS


def refuse_aliased(database: JobDatabase, tenant: str, classifier_id: str) -> None:
    """Refuse to go on if an alias points at the classifier.

    Raises:
        FailedPrecondition: Naming the alias and the commands that move or remove it.
    """
    for alias in database.list_aliases(tenant):
        if alias.classifier_id == classifier_id:
            raise FailedPrecondition(
                resource_names.build(CLASSIFIERS, classifier_id),
                f"{resource_names.build(ALIASES, alias.alias)} points at it",
                f"move the alias with `cytosynth alias set {alias.alias} classifiers/…`, or "
                f"remove it with `cytosynth alias delete {alias.alias}`",
            )
