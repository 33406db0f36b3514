"""A classifier: first byte b gives ``blast`` probability b/255, ``mono`` the rest.

The second byte, if there is one, is 100 times the out of distribution score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import grpc

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from services.common.errors import InvalidArgument, NotFound
from services.common.rpc.handlers import to_status
from tests.support.servers.toy_services.failure import fail


class ToyClassifier(classifier_pb2_grpc.ClassifierServiceServicer):
    """Classifies by the first byte."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.options: list[classifier_pb2.AnswerOptions] = []
        #: Answers as servers did before answers carried their doubt.
        self.is_of_earlier_release = False
        self.num_older_models = 0
        self.aliases: dict[str, list[str]] = {"aliases/production": ["classifiers/c1"]}

    def Classify(
        self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ClassifyResponse:
        model = self._model(request.model, context)
        self.batch_sizes.append(len(request.images))
        self.options.append(request.options)
        bad = [n for n, image in enumerate(request.images) if image == b"not an image"]
        if bad and (self.is_of_earlier_release or not request.options.answer_each):
            first, *further = [(f"images[{place}]", "is not an image") for place in bad]
            fail(context, InvalidArgument(*first, "send PNG or JPEG", further))
        unknown = set(request.options.class_priors) - {"blast", "mono"}
        if unknown:
            problem = f"the classifier has no class {sorted(unknown)[0]!r}"
            fail(context, InvalidArgument("options.class_priors", problem, "send shares of blast"))
        answers = [
            _refusal(number) if number in bad else self._answer(image)
            for number, image in enumerate(request.images)
        ]
        return classifier_pb2.ClassifyResponse(
            model=model, classifications=answers, context=self._context(request.options)
        )

    def ClassifyStream(
        self,
        requests: Iterator[classifier_pb2.ClassifyStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[classifier_pb2.ClassifyStreamResponse]:
        model = ""
        for request in requests:
            model = model or self._model(request.model, context)
            first = request.HasField("options") or None
            yield classifier_pb2.ClassifyStreamResponse(
                model=model,
                classification=self._answer(request.image),
                context=self._context(request.options) if first else None,
            )

    def _model(self, name: str, context: grpc.ServicerContext) -> str:
        name = name or "aliases/production"
        if name.startswith("aliases/") and name in self.aliases:
            name = self.aliases[name][-1]
        if not name.startswith("classifiers/c"):
            fail(context, NotFound(name, "list models to see which exist"))
        return name

    def _context(self, options: classifier_pb2.AnswerOptions) -> classifier_pb2.AnswerContext:
        if self.is_of_earlier_release:
            return classifier_pb2.AnswerContext()
        given = bool(options.class_priors)
        return classifier_pb2.AnswerContext(
            manifest_digest="d" * 64,
            request_id="request-1",
            calibrated=True,
            conformal=True,
            coverage=options.coverage if options.HasField("coverage") else 0.9,
            prior_source=classifier_pb2.PRIOR_SOURCE_REQUEST
            if given
            else classifier_pb2.PRIOR_SOURCE_TRAINING,
            class_priors=options.class_priors if given else {"blast": 0.5, "mono": 0.5},
            runtime="torch",
        )

    def _answer(self, image: bytes) -> classifier_pb2.Classification:
        answer = self._classify(image)
        if self.is_of_earlier_release:
            return answer
        likely = [item.class_id for item in answer.probabilities if item.probability >= 0.2]
        answer.prediction_set.extend(likely)
        answer.out_of_distribution_score = image[1] / 100 if len(image) > 1 else 0.5
        if answer.out_of_distribution_score > 1:
            answer.review_reasons.append(classifier_pb2.REVIEW_REASON_UNKNOWN_CLASS)
        if len(likely) > 1:
            answer.review_reasons.append(classifier_pb2.REVIEW_REASON_NEAR_BOUNDARY)
        answer.needs_review = bool(answer.review_reasons)
        answer.image_sha256 = hashlib.sha256(image).hexdigest()
        return answer

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
        older = [
            classifier_pb2.Model(name=f"classifiers/old-{number}", architecture="resnet18")
            for number in range(self.num_older_models)
        ]
        return _page([model, *older], request, classifier_pb2.ListModelsResponse, "models")

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
        aliases = [self._alias(name) for name in self.aliases]
        return _page(aliases, request, classifier_pb2.ListAliasesResponse, "aliases")

    def _alias(self, name: str) -> classifier_pb2.Alias:
        history = self.aliases[name]
        previous = history[-2] if len(history) > 1 else ""
        return classifier_pb2.Alias(name=name, model=history[-1], previous_model=previous)


def _refusal(number: int) -> classifier_pb2.Classification:
    error = InvalidArgument(f"images[{number}]", "is not an image", "send PNG or JPEG")
    return classifier_pb2.Classification(status=to_status(error))


def _page(entries: list[Any], request: Any, response_type: Any, field: str) -> Any:
    start = int(request.page_token or 0)
    end = start + (request.page_size or len(entries))
    token = str(end) if end < len(entries) else ""
    return response_type(**{field: entries[start:end], "next_page_token": token})
