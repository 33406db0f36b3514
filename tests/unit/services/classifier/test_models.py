"""Versions of a tenant, and the aliases that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.classifier.models import ModelRegistry
from services.common.database.jobs import JobDatabase, migrate
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import TENANT, store_random_classifier


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(f"file://{tmp_path}/store")
    for number in (1, 2, 3):
        store_random_classifier(store, f"model-{number}", seed=number)
    return store


@pytest.fixture
def registry(store: ArtifactStore, tmp_path: Path) -> ModelRegistry:
    url = f"sqlite:///{tmp_path}/jobs.db"
    migrate(url)
    return ModelRegistry(store, JobDatabase(url).aliases)


def test_alias_points_at_a_version_and_rolls_back(registry: ModelRegistry) -> None:
    with pytest.raises(NotFound, match="aliases/production"):
        registry.resolve(TENANT, "", "model")
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-1")
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-2")
    assert registry.resolve(TENANT, "", "model") == "model-2"
    assert registry.describe(TENANT, "model-2").aliases == ("production",)
    rolled = registry.rollback_alias(TENANT, "aliases/production")
    assert rolled.classifier_id == "model-1"
    assert registry.resolve(TENANT, "aliases/production", "model") == "model-1"
    with pytest.raises(FailedPrecondition):
        registry.rollback_alias(TENANT, "aliases/production")


def test_names_are_checked(registry: ModelRegistry) -> None:
    with pytest.raises(NotFound, match="classifiers/none"):
        registry.resolve(TENANT, "classifiers/none", "model")
    with pytest.raises(NotFound):
        registry.resolve("other-lab", "classifiers/model-1", "model")
    with pytest.raises(InvalidArgument) as caught:
        registry.resolve(TENANT, "adapters/model-1", "model")
    assert caught.value.field == "model"
    with pytest.raises(NotFound):
        registry.set_alias(TENANT, "aliases/production", "classifiers/none")
    with pytest.raises(InvalidArgument):
        registry.set_alias(TENANT, "aliases/production", "aliases/candidate")


def test_an_alias_does_not_roll_back_to_a_deleted_classifier(
    registry: ModelRegistry, store: ArtifactStore
) -> None:
    for number in (1, 2):
        registry.set_alias(TENANT, "aliases/production", f"classifiers/model-{number}")
    store.delete(TENANT, "classifiers", "model-1")
    with pytest.raises(FailedPrecondition, match=r"model-1 was deleted.*alias set production"):
        registry.rollback_alias(TENANT, "aliases/production")
    assert registry.resolve(TENANT, "aliases/production", "model") == "model-2"
    registry.delete_alias(TENANT, "aliases/production")
    assert registry.list_aliases(TENANT) == []


def test_a_classifier_deleted_while_they_are_listed_is_left_out(
    registry: ModelRegistry, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = store.list(TENANT, "classifiers")
    store.delete(TENANT, "classifiers", "model-2")
    monkeypatch.setattr(ArtifactStore, "list", lambda *_: listed)
    ids = [info.classifier_id for info in registry.list_models(TENANT)]
    assert ids == ["model-3", "model-1"]


def test_models_are_listed_newest_first_and_by_tenant(registry: ModelRegistry) -> None:
    listed = [info.classifier_id for info in registry.list_models(TENANT)]
    assert listed == ["model-3", "model-2", "model-1"]
    assert registry.list_models("other-lab") == []


def test_what_a_switch_needs_is_known_before_it(registry: ModelRegistry) -> None:
    assert registry.check_alias(TENANT, "aliases/production", "classifiers/model-2") == "model-2"
    with pytest.raises(NotFound):
        registry.check_rollback(TENANT, "aliases/production")
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-1")
    assert registry.check_rollback(TENANT, "aliases/production") is None
    registry.set_alias(TENANT, "aliases/production", "classifiers/model-2")
    assert registry.check_rollback(TENANT, "aliases/production") == "model-1"
