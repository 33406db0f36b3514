"""The classifier as a Ray Serve application.

    client ──gRPC──▶ Classifier × N (decodes, batches, computes)

Every replica serves every classifier; torch is imported when the first one is loaded.
"""

from __future__ import annotations

from collections import Counter

from ray import serve

from cytosynth import traces
from services.classifier.config import ClassifierSettings
from services.classifier.models import ModelRegistry
from services.classifier.service import ClassifierService, OnClassified
from services.common.database.jobs import JobDatabase
from services.common.logs import configure_logging
from services.common.rpc.handlers import metrics_observer, set_observer
from services.common.store.artifacts import ArtifactStore

APP_NAME = "classifier"


class Classifier(ClassifierService):
    """One classifier replica."""

    def __init__(self, settings: ClassifierSettings) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, APP_NAME)
        set_observer(metrics_observer(serve.metrics))
        store = ArtifactStore(settings.store_uri)
        registry = ModelRegistry(store, JobDatabase(settings.database_url).aliases, settings)
        super().__init__(settings, registry, _count_images())


def _count_images() -> OnClassified:
    from ray.serve import metrics

    images = metrics.Counter(
        "cytosynth_classifier_images_total", "Images classified.", tag_keys=("architecture",)
    )
    predictions = metrics.Counter(
        "cytosynth_classifier_predictions_total",
        "Images by their most probable class.",
        tag_keys=("tenant", "class_id"),
    )

    def count(tenant: str, architecture: str, predicted: list[str]) -> None:
        images.inc(len(predicted), tags={"architecture": architecture})
        for class_id, number in Counter(predicted).items():
            predictions.inc(number, tags={"tenant": tenant, "class_id": class_id})

    return count


def build_app(settings: ClassifierSettings | None = None) -> serve.Application:
    """Builds the application of ``classifier_num_replicas`` equal replicas."""
    settings = settings or ClassifierSettings.load()
    replicas = serve.deployment(Classifier).options(
        name="Classifier",
        num_replicas=settings.classifier_num_replicas,
        max_ongoing_requests=settings.classifier_max_concurrent_requests,
        max_queued_requests=settings.classifier_max_concurrent_requests,
        ray_actor_options={
            "num_cpus": settings.classifier_replica_num_cpus,
            "num_gpus": settings.classifier_replica_num_gpus,
        },
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=5.0,
    )
    return replicas.bind(settings)
