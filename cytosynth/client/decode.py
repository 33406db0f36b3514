"""Protobuf messages to records, for all answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cytosynth.classifier.v1 import classifier_pb2
from cytosynth.client import records
from cytosynth.client.errors import error_from_status
from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2

_REASONS = {
    code: classifier_pb2.ReviewReason.Name(code).removeprefix("REVIEW_REASON_").lower()
    for code in classifier_pb2.ReviewReason.values()
}
_PRIOR_SOURCES = {
    code: classifier_pb2.PriorSource.Name(code).removeprefix("PRIOR_SOURCE_").lower()
    for code in classifier_pb2.PriorSource.values()
    if code != classifier_pb2.PRIOR_SOURCE_UNSPECIFIED
}


def dataset(message: trainer_pb2.Dataset, notices: tuple[str, ...] = ()) -> records.Dataset:
    """A dataset; ``notices`` are the client's own, put before the server's."""
    return records.Dataset(
        name=message.name,
        display_name=message.display_name,
        create_time=_time(message.create_time),
        classes=tuple(
            records.DatasetClass(
                item.class_id, item.num_images, item.num_train, item.num_test, item.left_out_reason
            )
            for item in message.classes
        ),
        split_digest=message.split_digest,
        center_crop=message.center_crop,
        notices=(*notices, *message.notices),
    )


def adapter(message: trainer_pb2.Adapter) -> records.Adapter:
    """An adapter."""
    return records.Adapter(
        name=message.name,
        base=message.base,
        dataset=message.dataset,
        class_ids=tuple(message.class_ids),
        create_time=_time(message.create_time),
        settings=_set_fields(message.settings),
        metrics=_sorted(message.metrics),
        manifest_digest=message.manifest_digest,
    )


def classifier(message: trainer_pb2.Classifier) -> records.Classifier:
    """A classifier as the trainer knows it."""
    return records.Classifier(
        name=message.name,
        dataset=message.dataset,
        settings=_set_fields(message.settings),
        synthetic=_set_fields(message.synthetic) if message.HasField("synthetic") else None,
        image_set=message.image_set,
        class_ids=tuple(message.class_ids),
        create_time=_time(message.create_time),
        metrics=_sorted(message.metrics),
        manifest_digest=message.manifest_digest,
    )


def job(message: job_pb2.Job) -> records.Job:
    """A job, its error included."""
    progress = message.progress
    return records.Job(
        name=message.name,
        kind=message.kind,
        state=job_pb2.JobState.Name(message.state).removeprefix("JOB_STATE_"),
        progress=records.Progress(
            progress.phase,
            progress.step,
            progress.total_steps,
            progress.eta_seconds,
            _sorted(progress.metrics),
        ),
        result=message.result,
        error=error_from_status(message.error) if message.HasField("error") else None,
        create_time=_time(message.create_time),
        update_time=_time(message.update_time),
        num_attempts=message.num_attempts,
    )


def report(message: trainer_pb2.Report) -> records.Report:
    """A report."""
    return records.Report(
        name=message.name,
        kind=message.kind,
        dataset=message.dataset,
        title=message.title,
        create_time=_time(message.create_time),
        manifest_digest=message.manifest_digest,
    )


def deletion_proof(message: trainer_pb2.DeletionProof) -> records.DeletionProof:
    """A deletion proof."""
    return records.DeletionProof(
        message.name, message.num_objects, message.digest, _time(message.delete_time)
    )


def model(message: classifier_pb2.Model) -> records.Model:
    """A classifier as the classifier service offers it."""
    return records.Model(
        name=message.name,
        architecture=message.architecture,
        class_ids=tuple(message.class_ids),
        create_time=_time(message.create_time),
        metrics=_sorted(message.metrics),
        manifest_digest=message.manifest_digest,
        aliases=tuple(message.aliases),
    )


def alias(message: classifier_pb2.Alias) -> records.Alias:
    """An alias."""
    return records.Alias(
        message.name, message.model, message.previous_model, _time(message.update_time)
    )


def answer_context(message: classifier_pb2.AnswerContext) -> records.AnswerContext:
    """What the answers of a call have in common."""
    return records.AnswerContext(
        manifest_digest=message.manifest_digest,
        request_id=message.request_id,
        calibrated=message.calibrated,
        conformal=message.conformal,
        coverage=message.coverage,
        prior_source=_PRIOR_SOURCES.get(message.prior_source, ""),
        class_priors=dict(sorted(message.class_priors.items())),
        runtime=message.runtime,
    )


def classification(
    message: classifier_pb2.Classification, model: str, context: records.AnswerContext
) -> records.Classification:
    """One image's classes, most probable first."""
    probabilities = {item.class_id: item.probability for item in message.probabilities}
    scored = message.HasField("out_of_distribution_score")
    return records.Classification(
        class_id=message.class_id,
        probability=probabilities.get(message.class_id, 0.0),
        probabilities=probabilities,
        model=model,
        prediction_set=tuple(message.prediction_set),
        out_of_distribution_score=message.out_of_distribution_score if scored else None,
        needs_review=message.needs_review,
        review_reasons=tuple(
            _REASONS.get(reason, f"reason_{reason}") for reason in message.review_reasons
        ),
        saliency_png=message.saliency_png,
        image_sha256=message.image_sha256,
        notices=tuple(message.notices),
        context=context,
    )


def _time(message: Timestamp) -> datetime | None:
    return message.ToDatetime(tzinfo=UTC) if message.ByteSize() else None


def _sorted(metrics: Any) -> dict[str, float]:
    return {name: metrics[name] for name in sorted(metrics)}


def _set_fields(message: Message) -> dict[str, Any]:
    return {
        descriptor.name: _set_fields(value) if isinstance(value, Message) else value
        for descriptor, value in message.ListFields()
    }
