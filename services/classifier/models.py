"""Classifiers of a tenant: versions, and the aliases that name them.

A version is a committed artifact and never changes. An alias such as ``production`` points at a
version and can be rolled back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from services.common import resource_names
from services.common.database.aliases import Alias, Aliases
from services.common.errors import FailedPrecondition, NotFound
from services.common.resource_names import ALIASES, CLASSIFIERS
from services.common.store.artifacts import ArtifactStore

DEFAULT_ALIAS = "production"


@dataclass(frozen=True)
class ModelInfo:
    """One version of a classifier.

    Attributes:
        classifier_id: Id of the classifier.
        manifest: Manifest as committed.
        manifest_digest: SHA-256 (hex) of the manifest.
        aliases: Aliases that point at the version, sorted.
    """

    classifier_id: str
    manifest: dict[str, Any]
    manifest_digest: str
    aliases: tuple[str, ...]


class ModelRegistry:
    """Finds classifiers by name and moves aliases; thread-safe."""

    def __init__(self, store: ArtifactStore, aliases: Aliases) -> None:
        self._store, self._aliases = store, aliases

    def resolve(self, tenant: str, name: str, field: str) -> str:
        """Finds the id of the classifier that ``name`` points at.

        Args:
            tenant: Owner of the classifier.
            name: ``classifiers/{classifier}`` or ``aliases/{alias}``; empty: the default alias.
            field: Request field of the name, for errors.

        Raises:
            InvalidArgument: If ``name`` is malformed.
            NotFound: If there is no such alias or classifier.
        """
        name = name or resource_names.build(ALIASES, DEFAULT_ALIAS)
        kind, id = resource_names.parse_any((CLASSIFIERS, ALIASES), name, field)
        if kind == ALIASES:
            id = self._aliases.get(tenant, id).classifier_id
        self._check_exists(tenant, id)
        return id

    def describe(self, tenant: str, classifier_id: str) -> ModelInfo:
        """Describes one version; raises NotFound."""
        manifest = self._store.get_manifest(tenant, CLASSIFIERS, classifier_id)
        return self._info(tenant, manifest, self._aliases.list(tenant))

    def list_models(self, tenant: str) -> list[ModelInfo]:
        """The tenant's versions, newest first."""
        aliases = self._aliases.list(tenant)
        models = []
        for manifest in self._store.list(tenant, CLASSIFIERS):
            with contextlib.suppress(NotFound):  # deleted in between
                models.append(self._info(tenant, manifest, aliases))
        return models

    def check_alias(self, tenant: str, alias_name: str, model_name: str) -> str:
        """Returns a version's id if an alias may point at it.

        Raises:
            InvalidArgument: If a name is malformed, or ``model`` names no version.
            NotFound: If the classifier does not exist.
        """
        resource_names.parse(ALIASES, alias_name, "name")
        classifier_id = resource_names.parse(CLASSIFIERS, model_name, "model")
        self._check_exists(tenant, classifier_id)
        return classifier_id

    def set_alias(self, tenant: str, alias_name: str, model_name: str) -> Alias:
        """Points an alias at a version; raises as ``check_alias``."""
        classifier_id = self.check_alias(tenant, alias_name, model_name)
        alias = resource_names.parse(ALIASES, alias_name, "name")
        return self._aliases.set(tenant, alias, classifier_id)

    def check_rollback(self, tenant: str, alias_name: str) -> str | None:
        """Id of the version an alias would roll back to, or None.

        Raises:
            InvalidArgument: If the name is malformed.
            NotFound: If there is no such alias.
            FailedPrecondition: If the version was deleted.
        """
        alias = resource_names.parse(ALIASES, alias_name, "name")
        previous = self._aliases.get(tenant, alias).previous_classifier_id
        if previous and not self._store.exists(tenant, CLASSIFIERS, previous):
            raise FailedPrecondition(
                alias_name,
                f"its earlier classifier {resource_names.build(CLASSIFIERS, previous)} was deleted",
                f"point it at another one: `cytosynth alias set {alias} classifiers/…`",
            )
        return previous

    def rollback_alias(self, tenant: str, alias_name: str) -> Alias:
        """Points an alias back at its previous version; raises NotFound, FailedPrecondition."""
        self.check_rollback(tenant, alias_name)
        return self._aliases.rollback(tenant, resource_names.parse(ALIASES, alias_name, "name"))

    def delete_alias(self, tenant: str, alias_name: str) -> None:
        """Removes an alias; raises NotFound."""
        self._aliases.delete(tenant, resource_names.parse(ALIASES, alias_name, "name"))

    def list_aliases(self, tenant: str) -> list[Alias]:
        """The tenant's aliases by name."""
        return self._aliases.list(tenant)

    def _check_exists(self, tenant: str, classifier_id: str) -> None:
        if not self._store.exists(tenant, CLASSIFIERS, classifier_id):
            name = resource_names.build(CLASSIFIERS, classifier_id)
            raise NotFound(name, "list the models to see the existing ones")

    def _info(self, tenant: str, manifest: dict[str, Any], aliases: Iterable[Alias]) -> ModelInfo:
        id = resource_names.parse(CLASSIFIERS, manifest["name"], "name")
        return ModelInfo(
            classifier_id=id,
            manifest=manifest,
            manifest_digest=self._store.manifest_digest(tenant, CLASSIFIERS, id),
            aliases=tuple(sorted(a.alias for a in aliases if a.classifier_id == id)),
        )
