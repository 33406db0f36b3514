"""A classifier: first byte b gives ``blast`` probability b/255, ``mono`` the rest."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from services.common.errors import InvalidArgument, NotFound
from tests.support.servers.toy_services.failure import fail


class ToyClassifier(classifier_pb2_grpc.ClassifierServiceServicer):
    """Classifies by the first byte."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.aliases: dict[str, list[str]] = {"aliases/production": ["classifiers/c1"]}

    def Classify(
        self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ClassifyResponse:
        model = self._model(request.model, context)
        self.batch_sizes.append(len(request.images))
        bad = [n for n, image in enumerate(request.images) if image == b"not an image"]
        if bad:
            first, *further = [(f"images[{place}]", "is not an image") for place in bad]
            fail(context, InvalidArgument(*first, "send PNG or JPEG", further))
        answers = [self._classify(image) for image in request.images]
        return classifier_pb2.ClassifyResponse(model=model, classifications=answers)

    def ClassifyStream(
        self,
        requests: Iterator[classifier_pb2.ClassifyStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[classifier_pb2.ClassifyStreamResponse]:
        model = ""
        for request in requests:
            model = model or self._model(request.model, context)
            yield classifier_pb2.ClassifyStreamResponse(
                model=model, classification=self._classify(request.image)
            )

    def _model(self, name: str, context: grpc.ServicerContext) -> str:
        name = name or "aliases/production"
        if name.startswith("aliases/") and name in self.aliases:
            name = self.aliases[name][-1]
        if not name.startswith("classifiers/c"):
            fail(context, NotFound(name, "list models to see which exist"))
        return name

    @staticmethod
    def _classify(image: bytes) -> classifier_pb2.Classification:
        blast = image[0] / 255
        order = sorted([("blast", blast), ("mono", 1 - blast)], key=lambda item: -item[1])
        probabilities = [
            classifier_pb2.ClassProbability(class_id=class_id, probability=probability)
            for class_id, probability in order
        ]
        return classifier_pb2.Classification(class_id=order[0][0], probabilities=probabilities)

    def ListModels(
        self, request: classifier_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ListModelsResponse:
        aliases = [name for name, history in self.aliases.items() if history[-1].endswith("c1")]
        model = classifier_pb2.Model(
            name="classifiers/c1",
            architecture="clip",
            class_ids=["blast", "mono"],
            metrics={"macro_f1": 0.75},
            aliases=aliases,
        )
        return classifier_pb2.ListModelsResponse(models=[model])

    def SetAlias(
        self, request: classifier_pb2.SetAliasRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.SetAliasResponse:
        self.aliases.setdefault(request.name, []).append(request.model)
        return classifier_pb2.SetAliasResponse(alias=self._alias(request.name))

    def RollbackAlias(
        self, request: classifier_pb2.RollbackAliasRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.RollbackAliasResponse:
        self.aliases[request.name].pop()
        return classifier_pb2.RollbackAliasResponse(alias=self._alias(request.name))

    def DeleteAlias(
        self, request: classifier_pb2.DeleteAliasRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.DeleteAliasResponse:
        if self.aliases.pop(request.name, None) is None:
            fail(context, NotFound(request.name, "set it first"))
        return classifier_pb2.DeleteAliasResponse()

    def ListAliases(
        self, request: classifier_pb2.ListAliasesRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ListAliasesResponse:
        return classifier_pb2.ListAliasesResponse(aliases=[self._alias(n) for n in self.aliases])

    def _alias(self, name: str) -> classifier_pb2.Alias:
        history = self.aliases[name]
        previous = history[-2] if len(history) > 1 else ""
        return classifier_pb2.Alias(name=name, model=history[-1], previous_model=previous)
