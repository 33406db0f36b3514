"""Classifiers of a tenant: versions, aliases and the loaded models.

A version is a committed artifact and never changes. An alias such as ``production`` points at a
version and can be rolled back.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.classifier.config import ClassifierSettings
from services.common import resource_names
from services.common.database.aliases import Alias, Aliases
from services.common.errors import FailedPrecondition, NotFound
from services.common.models.classifier_config import ClassifierConfig
from services.common.resource_names import ALIASES, CLASSIFIERS
from services.common.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    import torch

    from services.common.models.image_classifier import ImageClassifier

DEFAULT_ALIAS = "production"
WEIGHTS_FILE = "model.safetensors"


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


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory, with its preprocessing.

    Attributes:
        classifier_id: Id of the classifier.
        network: Network in eval mode, on ``device``.
        config: Classes and input size.
        center_crop: Share of the smaller of height and width that is kept, centred.
        device: Device of the network.
    """

    classifier_id: str
    network: ImageClassifier
    config: ClassifierConfig
    center_crop: float
    device: torch.device


class ModelRegistry:
    """Finds classifiers by name and caches the most recently used; thread-safe."""

    def __init__(
        self, store: ArtifactStore, aliases: Aliases, settings: ClassifierSettings
    ) -> None:
        self._store, self._aliases, self._settings = store, aliases, settings
        self._loaded: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._loading = threading.Lock()

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

    def set_alias(self, tenant: str, alias_name: str, model_name: str) -> Alias:
        """Points an alias at a version.

        Raises:
            InvalidArgument: If a name is malformed, or ``model`` names no version.
            NotFound: If the classifier does not exist.
        """
        alias = resource_names.parse(ALIASES, alias_name, "name")
        classifier_id = resource_names.parse(CLASSIFIERS, model_name, "model")
        self._check_exists(tenant, classifier_id)
        return self._aliases.set(tenant, alias, classifier_id)

    def rollback_alias(self, tenant: str, alias_name: str) -> Alias:
        """Points an alias back at its previous version; raises NotFound, FailedPrecondition."""
        alias = resource_names.parse(ALIASES, alias_name, "name")
        previous = self._aliases.get(tenant, alias).previous_classifier_id
        if previous and not self._store.exists(tenant, CLASSIFIERS, previous):
            raise FailedPrecondition(
                alias_name,
                f"its earlier classifier {resource_names.build(CLASSIFIERS, previous)} was deleted",
                f"point it at another one: `cytosynth alias set {alias} classifiers/…`",
            )
        return self._aliases.rollback(tenant, alias)

    def delete_alias(self, tenant: str, alias_name: str) -> None:
        """Removes an alias; raises NotFound."""
        self._aliases.delete(tenant, resource_names.parse(ALIASES, alias_name, "name"))

    def list_aliases(self, tenant: str) -> list[Alias]:
        """The tenant's aliases by name."""
        return self._aliases.list(tenant)

    def load(self, tenant: str, classifier_id: str) -> LoadedModel:
        """Returns the version from the cache, or loads it.

        Raises:
            NotFound: If the version does not exist.
            DataLoss: If its files are damaged.
            FailedPrecondition: If its CLIP base was changed or removed.
        """
        key = (tenant, classifier_id)
        with self._loading:
            model = self._loaded.get(key)
            if model is None:
                model = self._read(tenant, classifier_id)
                self._loaded[key] = model
            self._loaded.move_to_end(key)
            while len(self._loaded) > self._settings.classifier_max_loaded_models:
                self._loaded.popitem(last=False)
        return model

    @property
    def num_loaded(self) -> int:
        """Classifiers in memory."""
        return len(self._loaded)

    def _read(self, tenant: str, classifier_id: str) -> LoadedModel:
        import torch  # takes seconds and hundreds of MB, which listing does not need

        from services.common.models.classifiers import load_model

        if self._settings.classifier_num_threads:
            torch.set_num_threads(self._settings.classifier_num_threads)
        manifest = self._store.get_manifest(tenant, CLASSIFIERS, classifier_id)
        config = ClassifierConfig.from_dict(manifest["body"]["config"])
        weights = self._store.read(tenant, CLASSIFIERS, classifier_id, WEIGHTS_FILE)
        network = load_model(config, weights, self._settings.models_dir)
        asked = self._settings.classifier_device
        cuda = asked == "cuda" or (asked == "auto" and torch.cuda.is_available())
        device = torch.device("cuda" if cuda else "cpu")
        center_crop = float(manifest["body"]["center_crop"])
        return LoadedModel(classifier_id, network.to(device), config, center_crop, device)

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
