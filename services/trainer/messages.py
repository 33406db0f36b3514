"""Converts between protobuf messages and domain objects: settings in, resources out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.database.jobs import Job
from services.common.errors import DomainError
from services.common.rpc.handlers import to_status
from services.common.store.artifacts import DeletionProof
from services.trainer.datasets.splitting import SplitSettings
from services.trainer.datasets.upload import DatasetHeader

_Message = TypeVar("_Message", bound=Message)


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values by field name.

    Optional fields and messages are left out where they are not set.
    """
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if isinstance(value, Message):
            values[field.name] = plain(value)
        elif isinstance(value, Mapping):
            values[field.name] = dict(value)
        elif field.is_repeated:
            values[field.name] = [plain(v) if isinstance(v, Message) else v for v in value]
        else:
            values[field.name] = value
    return values


def header_from(message: pb.DatasetHeader) -> DatasetHeader:
    """The domain's header of an upload or import."""
    split = message.split
    return DatasetHeader(
        display_name=message.display_name,
        split=SplitSettings(
            shots=split.shots,
            class_shots=dict(split.class_shots),
            max_test_per_class=split.max_test_per_class,
            seed=split.seed,
        ),
        center_crop=message.center_crop,
        idempotency_key=message.idempotency_key,
    )


def dataset_message(manifest: Mapping[str, Any]) -> pb.Dataset:
    """A dataset's manifest as the API shows it."""
    body = manifest["body"]
    return pb.Dataset(
        name=manifest["name"],
        display_name=body["display_name"],
        create_time=timestamp(manifest["create_time"]),
        classes=[
            pb.DatasetClass(
                class_id=class_id,
                num_images=split["num_images"],
                num_train=len(split["train"]),
                num_test=len(split["test"]),
                left_out_reason=split["left_out_reason"],
            )
            for class_id, split in sorted(body["classes"].items())
        ],
        split_digest=body["split_digest"],
        notices=body["notices"],
        center_crop=body["center_crop"],
    )


def adapter_message(manifest: Mapping[str, Any], digest: str) -> pb.Adapter:
    """An adapter's manifest as the API shows it."""
    body = manifest["body"]
    return pb.Adapter(
        name=manifest["name"],
        base=manifest["base"],
        dataset=body["dataset"],
        class_ids=body["class_ids"],
        create_time=timestamp(manifest["create_time"]),
        settings=_known(pb.AdapterSettings, manifest["settings"]),
        metrics=_figures(manifest["metrics"]),
        manifest_digest=digest,
    )


def classifier_message(manifest: Mapping[str, Any], digest: str) -> pb.Classifier:
    """A classifier's manifest as the API shows it."""
    body = manifest["body"]
    message = pb.Classifier(
        name=manifest["name"],
        dataset=body["dataset"],
        settings=_known(pb.ClassifierSettings, manifest["settings"]),
        image_set=body.get("image_set", ""),
        class_ids=body["class_ids"],
        create_time=timestamp(manifest["create_time"]),
        metrics=_figures(manifest["metrics"]),
        manifest_digest=digest,
    )
    if body.get("synthetic"):
        message.synthetic.CopyFrom(_known(pb.SyntheticSpec, body["synthetic"]))
    return message


def report_message(manifest: Mapping[str, Any], digest: str) -> pb.Report:
    """A report's manifest as the API shows it."""
    body = manifest["body"]
    return pb.Report(
        name=manifest["name"],
        kind="study" if "draws" in body else "report",
        dataset=body["dataset"],
        title=manifest["settings"].get("title", ""),
        create_time=timestamp(manifest["create_time"]),
        manifest_digest=digest,
    )


def proof_message(proof: DeletionProof) -> pb.DeletionProof:
    """The store's proof of a deletion."""
    return pb.DeletionProof(
        name=proof["name"],
        num_objects=proof["num_objects"],
        digest=proof["digest"],
        delete_time=timestamp(proof["delete_time"]),
    )


def job_message(job: Job) -> job_pb2.Job:
    """A job as the API shows it, errors as a status."""
    message = job_pb2.Job(
        name=job.name,
        kind=job.kind,
        state=f"JOB_STATE_{job.state}",
        progress=job_pb2.JobProgress(
            phase=job.phase,
            step=job.step,
            total_steps=job.total_steps,
            eta_seconds=job.eta_seconds,
            metrics=job.metrics,
        ),
        result=job.result,
        num_attempts=job.attempts,
    )
    message.create_time.FromDatetime(job.create_time)
    message.update_time.FromDatetime(job.update_time)
    if job.error is not None:
        message.error.CopyFrom(to_status(DomainError.from_dict(job.error), job.request_id))
    return message


def timestamp(text: str) -> Timestamp:
    """ISO 8601 with a zone to a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(text))
    return stamp


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics that are numbers, without those that could not be computed."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _known(message_type: type[_Message], values: Mapping[str, Any]) -> _Message:
    """A message of the values for which it has fields."""
    message = message_type()
    for name, field in message_type.DESCRIPTOR.fields_by_name.items():
        value = values.get(name)
        if value is None:
            continue
        if isinstance(getattr(message, name), Message):
            getattr(message, name).CopyFrom(_known(type(getattr(message, name)), value))
        elif field.is_repeated:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message
