"""gRPC handlers of the classifier: decode, one call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from cytosynth.classifier.v1 import classifier_pb2 as pb
from services.classifier.classify import Classification, check_count, chunks, classify, prepare_all
from services.classifier.config import ClassifierSettings
from services.classifier.models import LoadedModel, ModelInfo, ModelRegistry
from services.common.database.aliases import Alias
from services.common.images.codec import ImageLimits
from services.common.resource_names import ALIASES, CLASSIFIERS, build
from services.common.rpc.handlers import Call, bidi_stream, unary

OnClassified = Callable[[str, str, list[str]], None]
"""Receives tenant, architecture and the predicted class of each image, for metrics."""


class ClassifierService:
    """The handlers."""

    def __init__(
        self, settings: ClassifierSettings, registry: ModelRegistry, on_classified: OnClassified
    ) -> None:
        self._settings, self._registry, self._on_classified = settings, registry, on_classified
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        # One batch at a time, because two would only share the same cores.
        self._compute = ThreadPoolExecutor(1, "classify")

    @unary(pb.ClassifyResponse)
    async def Classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        """Classify a batch of images."""
        check_count(len(request.images), self._settings.classifier_max_images)
        model = await self._model(call.tenant, request.model)
        fields = [f"images[{number}]" for number in range(len(request.images))]
        answers = await self._classify(call.tenant, model, list(request.images), fields)
        return pb.ClassifyResponse(
            model=build(CLASSIFIERS, model.classifier_id),
            classifications=[_classification(answer) for answer in answers],
        )

    @bidi_stream
    async def ClassifyStream(
        self, requests: AsyncIterator[pb.ClassifyStreamRequest], call: Call
    ) -> AsyncGenerator[pb.ClassifyStreamResponse, None]:
        """Classify a stream of images, one answer per request, in order."""
        model: LoadedModel | None = None
        number = 0
        async for request in requests:
            if model is None:
                model = await self._model(call.tenant, request.model)
            field = f"image (message {number})"
            answers = await self._classify(call.tenant, model, [request.image], [field])
            number += 1
            yield pb.ClassifyStreamResponse(
                model=build(CLASSIFIERS, model.classifier_id),
                classification=_classification(answers[0]),
            )

    @unary(pb.ListModelsResponse)
    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """List the caller's classifiers, newest first."""
        models = await asyncio.to_thread(self._registry.list_models, call.tenant)
        return pb.ListModelsResponse(models=[_model(info) for info in models])

    @unary(pb.GetModelResponse)
    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Return one classifier."""

        def find() -> ModelInfo:
            classifier_id = self._registry.resolve(call.tenant, request.name, "name")
            return self._registry.describe(call.tenant, classifier_id)

        return pb.GetModelResponse(model=_model(await asyncio.to_thread(find)))

    @unary(pb.SetAliasResponse)
    async def SetAlias(self, request: pb.SetAliasRequest, call: Call) -> pb.SetAliasResponse:
        """Point an alias at a classifier."""
        alias = await asyncio.to_thread(
            self._registry.set_alias, call.tenant, request.name, request.model
        )
        return pb.SetAliasResponse(alias=_alias(alias))

    @unary(pb.RollbackAliasResponse)
    async def RollbackAlias(
        self, request: pb.RollbackAliasRequest, call: Call
    ) -> pb.RollbackAliasResponse:
        """Point an alias back at its previous classifier."""
        alias = await asyncio.to_thread(self._registry.rollback_alias, call.tenant, request.name)
        return pb.RollbackAliasResponse(alias=_alias(alias))

    @unary(pb.DeleteAliasResponse)
    async def DeleteAlias(
        self, request: pb.DeleteAliasRequest, call: Call
    ) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        await asyncio.to_thread(self._registry.delete_alias, call.tenant, request.name)
        return pb.DeleteAliasResponse()

    @unary(pb.ListAliasesResponse)
    async def ListAliases(
        self, request: pb.ListAliasesRequest, call: Call
    ) -> pb.ListAliasesResponse:
        """List the caller's aliases."""
        aliases = await asyncio.to_thread(self._registry.list_aliases, call.tenant)
        return pb.ListAliasesResponse(aliases=[_alias(alias) for alias in aliases])

    async def _model(self, tenant: str, name: str) -> LoadedModel:
        def load() -> LoadedModel:
            return self._registry.load(tenant, self._registry.resolve(tenant, name, "model"))

        return await asyncio.to_thread(load)

    async def _classify(
        self, tenant: str, model: LoadedModel, images: list[bytes], fields: list[str]
    ) -> list[Classification]:
        arrays = await asyncio.to_thread(prepare_all, images, fields, model, self._limits)
        loop = asyncio.get_running_loop()
        answers: list[Classification] = []
        for part in chunks(len(arrays)):  # a caller that goes away stops the work here
            answers += await loop.run_in_executor(self._compute, classify, model, arrays[part])
        predicted = [answer.class_id for answer in answers]
        self._on_classified(tenant, model.config.architecture, predicted)
        return answers


def _classification(answer: Classification) -> pb.Classification:
    return pb.Classification(
        class_id=answer.class_id,
        probabilities=[
            pb.ClassProbability(class_id=class_id, probability=probability)
            for class_id, probability in answer.probabilities
        ],
    )


def _model(info: ModelInfo) -> pb.Model:
    body = info.manifest["body"]
    return pb.Model(
        name=info.manifest["name"],
        architecture=body["architecture"],
        class_ids=body["class_ids"],
        create_time=_timestamp(datetime.fromisoformat(info.manifest["create_time"])),
        metrics={
            name: value
            for name, value in info.manifest["metrics"].items()
            if isinstance(value, int | float)
        },
        manifest_digest=info.manifest_digest,
        aliases=[build(ALIASES, alias) for alias in info.aliases],
    )


def _alias(alias: Alias) -> pb.Alias:
    previous = alias.previous_classifier_id
    return pb.Alias(
        name=build(ALIASES, alias.alias),
        model=build(CLASSIFIERS, alias.classifier_id),
        previous_model=build(CLASSIFIERS, previous) if previous else "",
        update_time=_timestamp(alias.update_time),
    )


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
