"""Three Serve applications without models, to test the stack around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from cytosynth.classifier.v1 import classifier_pb2
from cytosynth.generator.v1 import generator_pb2
from cytosynth.trainer.v1 import trainer_pb2

_OPTIONS: dict[str, Any] = {
    "ray_actor_options": {"num_cpus": 0},
    "graceful_shutdown_timeout_s": 0.1,
}


@serve.deployment(**_OPTIONS)
class ToyGenerator:
    async def GetCapabilities(self, request: Any) -> generator_pb2.GetCapabilitiesResponse:
        return generator_pb2.GetCapabilitiesResponse()

    async def Synthesize(
        self, request: generator_pb2.SynthesizeRequest, grpc_context: Any
    ) -> AsyncIterator[generator_pb2.SynthesizeResponse]:
        """Stream the requested indices, with the edge's tenant as their class."""
        tenant = dict(grpc_context.invocation_metadata()).get("x-cytosynth-tenant", "")
        for index in range(request.class_counts[0].num_images):
            yield generator_pb2.SynthesizeResponse(index=index, class_id=tenant)
            await asyncio.sleep(0.01)


@serve.deployment(**_OPTIONS)
class ToyClassifier:
    async def ListAliases(self, request: Any) -> classifier_pb2.ListAliasesResponse:
        return classifier_pb2.ListAliasesResponse()

    async def Classify(
        self, request: classifier_pb2.ClassifyRequest
    ) -> classifier_pb2.ClassifyResponse:
        return classifier_pb2.ClassifyResponse()

    async def ClassifyStream(
        self, requests: AsyncIterator[Any]
    ) -> AsyncIterator[classifier_pb2.ClassifyStreamResponse]:
        async for _ in requests:
            yield classifier_pb2.ClassifyStreamResponse()


@serve.deployment(**_OPTIONS)
class ToyTrainer:
    async def ListJobs(self, request: Any) -> trainer_pb2.ListJobsResponse:
        return trainer_pb2.ListJobsResponse()

    async def UploadDataset(
        self, requests: AsyncIterator[Any]
    ) -> trainer_pb2.UploadDatasetResponse:
        async for _ in requests:
            pass
        return trainer_pb2.UploadDatasetResponse()


@serve.deployment(**_OPTIONS)
class BrokenTrainer:
    def __init__(self) -> None:
        raise RuntimeError("the toy trainer has no coffee")

    async def ListJobs(self, request: Any) -> trainer_pb2.ListJobsResponse:
        return trainer_pb2.ListJobsResponse()


def build_apps() -> dict[str, Any]:
    """Apps that work."""
    return {
        "generator": ToyGenerator.bind(),
        "classifier": ToyClassifier.bind(),
        "trainer": ToyTrainer.bind(),
    }


def build_broken_apps() -> dict[str, Any]:
    """Apps of which one cannot start."""
    return {**build_apps(), "trainer": BrokenTrainer.bind()}
