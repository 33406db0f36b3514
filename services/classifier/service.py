"""gRPC handlers of the classifier: decode, one call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from cytosynth.classifier.v1 import classifier_pb2 as pb
from services.classifier import messages
from services.classifier.batching.engine import BatchEngine
from services.classifier.batching.schedule import Limits
from services.classifier.classify import Classified, Classifying, Wanted, check_count
from services.classifier.config import ClassifierSettings
from services.classifier.loaded_model import LoadedModel, ModelLoader
from services.classifier.metrics import ServingMetrics
from services.classifier.model_cache import ModelCache
from services.classifier.models import ModelInfo, ModelRegistry
from services.classifier.pages import page
from services.classifier.saliency.drawing import Drawing
from services.classifier.streams import ImageStream, windowed
from services.classifier.versions import Versions
from services.common.database.aliases import Aliases
from services.common.images.codec import ImageLimits
from services.common.rpc.handlers import Call, bidi_stream, unary
from services.common.store.artifacts import ArtifactStore


class ClassifierService:
    """The handlers; all calls of a process come in one event loop."""

    def __init__(
        self,
        settings: ClassifierSettings,
        store: ArtifactStore,
        aliases: Aliases,
        metrics: ServingMetrics,
    ) -> None:
        self._settings = settings
        self._registry = ModelRegistry(store, aliases)
        loader = ModelLoader(store, settings)
        cache = ModelCache(loader.load, settings.classifier_max_loaded_models)
        self._versions = Versions(self._registry, cache)
        self._engine = BatchEngine(_limits(settings), metrics)
        limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._classifying = Classifying(self._engine, limits, Drawing(), metrics)

    def check_threads(self) -> None:
        """Raises Unavailable if this replica must be replaced."""
        self._engine.check_health()

    @unary(pb.ClassifyResponse)
    async def Classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        """Classify a batch of images."""
        check_count(len(request.images), self._settings.classifier_max_images)
        wanted = messages.wanted(request.options)
        model = await self._model(call.tenant, request.model, wanted, len(request.images))
        classified = await self._classifying.classify(model, call.deadline, request.images, wanted)
        return messages.classify_response(classified, call.request_id)

    @bidi_stream
    async def ClassifyStream(
        self, requests: AsyncIterator[pb.ClassifyStreamRequest], call: Call
    ) -> AsyncGenerator[pb.ClassifyStreamResponse, None]:
        """Classify a stream of images, one answer per request, in order."""
        stream: ImageStream | None = None
        num_answered = 0

        async def start(request: pb.ClassifyStreamRequest) -> asyncio.Future[Classified]:
            nonlocal stream
            if stream is None:
                wanted = messages.wanted(request.options)
                model = await self._model(call.tenant, request.model, wanted, 1, is_stream=True)
                stream = ImageStream(self._classifying, model, call.deadline, wanted)
            return stream.start(request.image)

        answers = windowed(requests, start, self._settings.classifier_stream_window)
        try:
            async for classified in answers:
                yield messages.stream_response(classified, call.request_id, not num_answered)
                num_answered += 1
        finally:
            await answers.aclose()
            if stream is not None:
                stream.close()

    @unary(pb.ListModelsResponse)
    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """List the caller's classifiers, newest first."""

        def find() -> tuple[list[ModelInfo], str]:
            models = self._registry.list_models(call.tenant)
            return page(models, _age, request.page_size, request.page_token, descending=True)

        models, token = await asyncio.to_thread(find)
        return pb.ListModelsResponse(
            models=[messages.model(info) for info in models], next_page_token=token
        )

    @unary(pb.GetModelResponse)
    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Return one classifier."""

        def find() -> ModelInfo:
            classifier_id = self._registry.resolve(call.tenant, request.name, "name")
            return self._registry.describe(call.tenant, classifier_id)

        return pb.GetModelResponse(model=messages.model(await asyncio.to_thread(find)))

    @unary(pb.SetAliasResponse)
    async def SetAlias(self, request: pb.SetAliasRequest, call: Call) -> pb.SetAliasResponse:
        """Point an alias at a classifier."""
        alias = await self._versions.set_alias(call.tenant, request.name, request.model)
        return pb.SetAliasResponse(alias=messages.alias(alias))

    @unary(pb.RollbackAliasResponse)
    async def RollbackAlias(
        self, request: pb.RollbackAliasRequest, call: Call
    ) -> pb.RollbackAliasResponse:
        """Point an alias back at its previous classifier."""
        alias = await self._versions.rollback_alias(call.tenant, request.name)
        return pb.RollbackAliasResponse(alias=messages.alias(alias))

    @unary(pb.DeleteAliasResponse)
    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, call: Call
    ) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        await self._versions.delete_alias(call.tenant, request.name)
        return pb.DeleteAliasResponse()

    @unary(pb.ListAliasesResponse)
    async def ListAliases(
        self, request: pb.ListAliasesRequest, call: Call
    ) -> pb.ListAliasesResponse:
        """List the caller's aliases."""
        found = await asyncio.to_thread(self._registry.list_aliases, call.tenant)
        aliases, token = page(
            found, lambda alias: [alias.alias], request.page_size, request.page_token
        )
        return pb.ListAliasesResponse(
            aliases=[messages.alias(alias) for alias in aliases], next_page_token=token
        )

    async def _model(
        self, tenant: str, name: str, wanted: Wanted, num_images: int, is_stream: bool = False
    ) -> LoadedModel:
        """Model to ask, once the call is well formed and has room."""
        self._engine.check_room(tenant)
        model = await self._versions.get(tenant, name)
        self._classifying.check(model, wanted, num_images, is_stream)
        return model


def _age(info: ModelInfo) -> tuple[str, str]:
    """Order of versions in lists."""
    return str(info.manifest["create_time"]), str(info.manifest["name"])


def _limits(settings: ClassifierSettings) -> Limits:
    return Limits(
        patience=settings.classifier_batch_wait_ms / 1000,
        max_wait=settings.classifier_queue_wait_ms / 1000,
        num_decoders=settings.num_decode_threads,
        num_workers=settings.num_compute_threads,
    )
