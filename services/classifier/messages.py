"""Messages of the classifier's contract, from and to what the domain knows."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from cytosynth.classifier.v1 import classifier_pb2 as pb
from services.classifier.classify import Classified, Outcome, Wanted
from services.classifier.models import ModelInfo
from services.common.answers.options import AnswerOptions
from services.common.answers.storage import support_of
from services.common.database.aliases import Alias
from services.common.resource_names import ALIASES, CLASSIFIERS, build
from services.common.rpc.statuses import to_status


def wanted(options: pb.AnswerOptions) -> Wanted:
    """What the options of a request ask for."""
    asked = AnswerOptions(
        class_priors=dict(options.class_priors),
        estimate_priors=options.estimate_priors,
        coverage=options.coverage if options.HasField("coverage") else None,
        top_k=options.top_k,
    )
    return Wanted(asked, options.saliency, options.answer_each)


def classify_response(classified: Classified, request_id: str) -> pb.ClassifyResponse:
    """Answer to a Classify call."""
    return pb.ClassifyResponse(
        model=build(CLASSIFIERS, classified.model.classifier_id),
        classifications=[classification(each, request_id) for each in classified.outcomes],
        context=context(classified, request_id),
    )


def stream_response(
    classified: Classified, request_id: str, is_first: bool
) -> pb.ClassifyStreamResponse:
    """Answer to one message of a ClassifyStream call."""
    return pb.ClassifyStreamResponse(
        model=build(CLASSIFIERS, classified.model.classifier_id),
        classification=classification(classified.outcomes[0], request_id),
        context=context(classified, request_id) if is_first else None,
    )


def classification(outcome: Outcome, request_id: str) -> pb.Classification:
    """The answer to one image."""
    answer = outcome.answer
    if answer is None:
        assert outcome.error is not None
        return pb.Classification(
            image_sha256=outcome.digest, status=to_status(outcome.error, request_id)
        )
    return pb.Classification(
        class_id=answer.class_id,
        probabilities=[
            pb.ClassProbability(class_id=class_id, probability=probability)
            for class_id, probability in answer.probabilities
        ],
        prediction_set=answer.prediction_set,
        out_of_distribution_score=answer.out_of_distribution_score,
        needs_review=answer.needs_review,
        review_reasons=[f"REVIEW_REASON_{reason.name}" for reason in answer.review_reasons],
        saliency_png=outcome.saliency_png,
        image_sha256=outcome.digest,
        notices=outcome.notices,
    )


def context(classified: Classified, request_id: str) -> pb.AnswerContext:
    """What the answers of a call have in common."""
    answers = classified.answers
    return pb.AnswerContext(
        manifest_digest=classified.model.manifest_digest,
        request_id=request_id,
        calibrated=answers.calibrated,
        conformal=answers.conformal,
        coverage=answers.coverage,
        prior_source=f"PRIOR_SOURCE_{answers.prior_source.name}",
        class_priors=answers.class_priors,
        runtime=classified.model.runtime.name,
    )


def model(info: ModelInfo) -> pb.Model:
    """A version as lists show it."""
    body = info.manifest["body"]
    support = support_of(body)
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
        answers=pb.AnswerSupport(
            calibrated=support.calibrated,
            conformal=support.conformal,
            out_of_distribution=support.out_of_distribution,
            saliency=True,
            training_priors=support.training_priors,
        ),
    )


def alias(found: Alias) -> pb.Alias:
    """An alias."""
    previous = found.previous_classifier_id
    return pb.Alias(
        name=build(ALIASES, found.alias),
        model=build(CLASSIFIERS, found.classifier_id),
        previous_model=build(CLASSIFIERS, previous) if previous else "",
        update_time=_timestamp(found.update_time),
    )


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
