"""The classifier as a Ray Serve application.

    client ──gRPC──▶ Classifier × N (decodes, batches, computes)

Every replica serves every classifier; torch is imported when the first one is loaded.
"""

from __future__ import annotations

from ray import serve

from cytosynth import traces
from services.classifier.config import ClassifierSettings
from services.classifier.metrics import SeriesMetrics
from services.classifier.service import ClassifierService
from services.common.database.jobs import JobDatabase
from services.common.exposition import expose
from services.common.logs import configure_logging
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.handlers import metrics_observer, set_observer
from services.common.rpc.server import SHUTDOWN_SECONDS, Listen, ServedReplica
from services.common.store.artifacts import ArtifactStore

APP_NAME = "classifier"


class Classifier(ClassifierService, ServedReplica):
    """One replica, with a gRPC server of its own."""

    def __init__(self, settings: ClassifierSettings, listen: Listen | None) -> None:
        configure_logging()
        traces.start(settings.traces_endpoint, APP_NAME)
        expose(APP_NAME, settings)
        set_observer(*metrics_observer(APP_NAME))
        store = ArtifactStore(settings.store_uri)
        aliases = JobDatabase(settings.database_url).aliases
        super().__init__(settings, store, aliases, SeriesMetrics())
        limit = settings.classifier_max_concurrent_requests
        self.serve([APP_NAME], listen, settings.max_message_bytes, CallSlots(limit, limit))

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        self.check_threads()
        await super().check_health()


def build_app(
    settings: ClassifierSettings | None = None, listen: Listen | None = None
) -> serve.Application:
    """Builds the application of ``classifier_num_replicas`` equal replicas."""
    settings = settings or ClassifierSettings.load()
    replicas = serve.deployment(Classifier).options(
        name="Classifier",
        num_replicas=settings.classifier_num_replicas,
        ray_actor_options={
            "num_cpus": settings.classifier_replica_num_cpus,
            "num_gpus": settings.classifier_replica_num_gpus,
        },
        health_check_period_s=1.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
    )
    return replicas.bind(settings, listen)
