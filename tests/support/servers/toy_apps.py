"""Three Serve applications without models, to test the stack around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.rpc.call_slots import CallSlots
from services.common.rpc.server import Listen, ServedReplica

_OPTIONS: dict[str, Any] = {
    "ray_actor_options": {"num_cpus": 0},
    "graceful_shutdown_timeout_s": 0.1,
}
_MAX_MESSAGE_BYTES = 32 * 1024 * 1024


class _Toy(ServedReplica):
    def __init__(self, service: str, listen: Listen) -> None:
        self.serve([service], listen, _MAX_MESSAGE_BYTES, CallSlots(64, 64))


@serve.deployment(**_OPTIONS)
class ToyGenerator(_Toy, generator_pb2_grpc.GeneratorServiceServicer):
    async def GetCapabilities(
        self, request: Any, context: Any
    ) -> generator_pb2.GetCapabilitiesResponse:
        return generator_pb2.GetCapabilitiesResponse()

    async def Synthesize(
        self, request: generator_pb2.SynthesizeRequest, context: Any
    ) -> AsyncIterator[generator_pb2.SynthesizeResponse]:
        """Stream the requested indices, with the edge's tenant as their class."""
        tenant = dict(context.invocation_metadata()).get("x-cytosynth-tenant", "")
        for index in range(request.class_counts[0].num_images):
            yield generator_pb2.SynthesizeResponse(index=index, class_id=tenant)
            await asyncio.sleep(0.01)


@serve.deployment(**_OPTIONS)
class ToyClassifier(_Toy, classifier_pb2_grpc.ClassifierServiceServicer):
    async def ListAliases(self, request: Any, context: Any) -> classifier_pb2.ListAliasesResponse:
        return classifier_pb2.ListAliasesResponse()

    async def Classify(
        self, request: classifier_pb2.ClassifyRequest, context: Any
    ) -> classifier_pb2.ClassifyResponse:
        return classifier_pb2.ClassifyResponse()

    async def ClassifyStream(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[classifier_pb2.ClassifyStreamResponse]:
        async for _ in requests:
            yield classifier_pb2.ClassifyStreamResponse()


@serve.deployment(**_OPTIONS)
class ToyTrainer(_Toy, trainer_pb2_grpc.TrainerServiceServicer):
    async def ListJobs(self, request: Any, context: Any) -> trainer_pb2.ListJobsResponse:
        return trainer_pb2.ListJobsResponse()

    async def UploadDataset(
        self, requests: AsyncIterator[Any], context: Any
    ) -> trainer_pb2.UploadDatasetResponse:
        async for _ in requests:
            pass
        return trainer_pb2.UploadDatasetResponse()


@serve.deployment(**_OPTIONS)
class BrokenTrainer:
    def __init__(self, service: str, listen: Listen) -> None:
        raise RuntimeError("the toy trainer has no coffee")


def build_apps(listen: Mapping[str, Listen]) -> dict[str, Any]:
    """Apps that work."""
    toys = {"generator": ToyGenerator, "classifier": ToyClassifier, "trainer": ToyTrainer}
    return {name: toy.bind(name, listen[name]) for name, toy in toys.items()}


def build_broken_apps(listen: Mapping[str, Listen]) -> dict[str, Any]:
    """Apps of which one cannot start."""
    return {**build_apps(listen), "trainer": BrokenTrainer.bind("trainer", listen["trainer"])}
