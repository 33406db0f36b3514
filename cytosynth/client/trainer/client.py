"""Client of the trainer: datasets, adapters, classifiers, reports and their jobs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cytosynth.client import decode
from cytosynth.client.connection import ServiceClient
from cytosynth.client.errors import invalid_argument
from cytosynth.client.generator import sampler_settings
from cytosynth.client.image_tree import ImageTree, read_image_tree
from cytosynth.client.records import (
    FINAL_STATES,
    Adapter,
    Classifier,
    Dataset,
    DeletionProof,
    Job,
    ReportArm,
    Synthetic,
)
from cytosynth.client.trainer.jobs import JobHandle
from cytosynth.client.trainer.report_files import download_report
from cytosynth.client.trainer.upload import UPLOAD_SECONDS, OnUpload, upload
from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

JOB_STATES = ("PENDING", "RUNNING", *FINAL_STATES)


class TrainerClient(ServiceClient):
    """Talks to the trainer service.

    Every ``fit_…`` and ``create_…`` takes an ``idempotency_key``: the same key again gives the
    same job. None makes a new one.
    """

    @cached_property
    def _trainer(self) -> trainer_pb2_grpc.TrainerServiceStub:
        return trainer_pb2_grpc.TrainerServiceStub(self._connection.channel)

    # Datasets

    def upload_dataset(
        self,
        images: str | Path | ImageTree,
        *,
        shots: int = 0,
        class_shots: Mapping[str, int] | None = None,
        max_test_per_class: int = 0,
        seed: int = 0,
        center_crop: float = 0.0,
        display_name: str = "",
        idempotency_key: str | None = None,
        on_progress: OnUpload | None = None,
    ) -> Dataset:
        """Upload an ImageFolder tree and lock its split.

        Args:
            images: The folder, or what ``read_image_tree`` read from it.
            shots: Few-shot training images per class; 0: all but the test share.
            class_shots: Shots of single classes, which override ``shots``.
            max_test_per_class: Most test images per class; 0: all that remain.
            seed: Seed of the draw.
            center_crop: Share of the shorter side to keep, centred; 0: estimated from the nuclei.
            display_name: Free text, at most 200 characters.
            on_progress: Called with images sent and images in all.

        Raises:
            CytosynthError: Names the file where a file is at fault; nothing is kept then.
        """
        tree = images if isinstance(images, ImageTree) else read_image_tree(images)
        unknown = sorted(set(class_shots or {}) - set(tree.class_ids))
        if unknown:
            raise invalid_argument(
                "class_shots", f"no class {unknown[0]!r} in the folder", ", ".join(tree.class_ids)
            )
        header = _header(
            display_name, shots, class_shots, max_test_per_class, seed, center_crop, idempotency_key
        )
        message = upload(self._connection, self._trainer, header, tree.images, on_progress)
        return decode.dataset(message, tree.notices)

    def import_dataset(
        self,
        uri: str,
        *,
        shots: int = 0,
        class_shots: Mapping[str, int] | None = None,
        max_test_per_class: int = 0,
        seed: int = 0,
        center_crop: float = 0.0,
        display_name: str = "",
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Make a dataset from an ImageFolder tree at a URI that the server reads."""
        header = _header(
            display_name, shots, class_shots, max_test_per_class, seed, center_crop, idempotency_key
        )
        request = trainer_pb2.ImportDatasetRequest(uri=uri, header=header)
        reply = self._connection.call(self._trainer.ImportDataset, request, UPLOAD_SECONDS)
        return decode.dataset(reply.dataset)

    def get_dataset(self, name: str) -> Dataset:
        """One dataset."""
        request = trainer_pb2.GetDatasetRequest(name=name)
        return decode.dataset(self._connection.call(self._trainer.GetDataset, request).dataset)

    def list_datasets(self) -> list[Dataset]:
        """The caller's datasets."""
        request = trainer_pb2.ListDatasetsRequest()
        reply = self._connection.call(self._trainer.ListDatasets, request)
        return [decode.dataset(message) for message in reply.datasets]

    def delete_dataset(self, name: str) -> DeletionProof:
        """Delete a dataset and its images; the proof says what is gone."""
        request = trainer_pb2.DeleteDatasetRequest(name=name)
        reply = self._connection.call(self._trainer.DeleteDataset, request)
        return decode.deletion_proof(reply.proof)

    # Adapters

    def fit_adapter(
        self,
        dataset: str,
        *,
        base: str = "",
        preset: str = "",
        rank: int | None = None,
        alpha: float | None = None,
        num_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        per_class: bool | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Start LoRA training of ``base`` on the few-shot images; None: the preset's value."""
        settings = _message(
            trainer_pb2.AdapterSettings,
            preset=preset,
            rank=rank,
            alpha=alpha,
            num_steps=num_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            per_class=per_class,
            seed=seed,
        )
        request = trainer_pb2.CreateAdapterRequest(
            dataset=dataset, base=base, settings=settings, idempotency_key=_key(idempotency_key)
        )
        return self._handle(self._connection.call(self._trainer.CreateAdapter, request).job)

    def get_adapter(self, name: str) -> Adapter:
        """One adapter."""
        request = trainer_pb2.GetAdapterRequest(name=name)
        return decode.adapter(self._connection.call(self._trainer.GetAdapter, request).adapter)

    def list_adapters(self) -> list[Adapter]:
        """The caller's adapters."""
        request = trainer_pb2.ListAdaptersRequest()
        reply = self._connection.call(self._trainer.ListAdapters, request)
        return [decode.adapter(message) for message in reply.adapters]

    def delete_adapter(self, name: str) -> DeletionProof:
        """Delete an adapter and its weights; the proof says what is gone."""
        request = trainer_pb2.DeleteAdapterRequest(name=name)
        reply = self._connection.call(self._trainer.DeleteAdapter, request)
        return decode.deletion_proof(reply.proof)

    # Classifiers

    def fit_classifier(
        self,
        dataset: str,
        *,
        architecture: str = "",
        synthetic: Synthetic | None = None,
        preset: str = "",
        clip_base: str = "",
        resnet_base: str = "",
        num_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        image_size: int | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Start classifier training, on real images alone or with ``synthetic`` ones."""
        settings = _message(
            trainer_pb2.ClassifierSettings,
            preset=preset,
            architecture=architecture,
            clip_base=clip_base,
            resnet_base=resnet_base,
            num_steps=num_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            image_size=image_size,
            seed=seed,
        )
        request = trainer_pb2.CreateClassifierRequest(
            dataset=dataset,
            settings=settings,
            synthetic=_synthetic(synthetic) if synthetic else None,
            idempotency_key=_key(idempotency_key),
        )
        return self._handle(self._connection.call(self._trainer.CreateClassifier, request).job)

    def get_classifier(self, name: str) -> Classifier:
        """One classifier."""
        request = trainer_pb2.GetClassifierRequest(name=name)
        reply = self._connection.call(self._trainer.GetClassifier, request)
        return decode.classifier(reply.classifier)

    def list_classifiers(self) -> list[Classifier]:
        """The caller's classifiers."""
        request = trainer_pb2.ListClassifiersRequest()
        reply = self._connection.call(self._trainer.ListClassifiers, request)
        return [decode.classifier(message) for message in reply.classifiers]

    # Reports

    def create_report(
        self,
        dataset: str,
        arms: Sequence[ReportArm],
        *,
        title: str = "",
        phase_seconds: Mapping[str, float] | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Start writing a report that compares classifiers on the locked test set."""
        request = _message(
            trainer_pb2.CreateReportRequest,
            dataset=dataset,
            arms=[
                trainer_pb2.ReportArm(model=arm.model, arm=arm.arm, classifier=arm.classifier)
                for arm in arms
            ],
            title=title,
            phase_seconds=dict(phase_seconds or {}),
            idempotency_key=_key(idempotency_key),
        )
        return self._handle(self._connection.call(self._trainer.CreateReport, request).job)

    def create_study(
        self,
        dataset: str,
        *,
        settings: Mapping[str, Any] | None = None,
        title: str = "",
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Start a study of ``datasets/{dataset}``; its job's result is a report.

        Args:
            dataset: Its images are split anew for every draw.
            settings: Fields of the API's ``StudySettings`` by name.
            title: Title of the report.
            idempotency_key: See the class.
        """
        request = trainer_pb2.CreateStudyRequest(
            dataset=dataset,
            settings=_message(trainer_pb2.StudySettings, **dict(settings or {})),
            title=title,
            idempotency_key=_key(idempotency_key),
        )
        return self._handle(self._connection.call(self._trainer.CreateStudy, request).job)

    def download_report(self, name: str, folder: str | Path) -> list[Path]:
        """Write the files of ``reports/{report}`` to ``folder``; each appears whole or not."""
        return download_report(self._connection, self._trainer, name, Path(folder))

    # Jobs

    def job(self, name: str) -> JobHandle:
        """A job by its name."""
        request = trainer_pb2.GetJobRequest(name=name)
        return self._handle(self._connection.call(self._trainer.GetJob, request).job)

    def list_jobs(self, state: str = "") -> list[Job]:
        """The caller's jobs, newest first; ``state`` such as ``RUNNING`` keeps only those."""
        if state and state.upper() not in JOB_STATES:
            raise invalid_argument("state", f"{state!r} is unknown", ", ".join(JOB_STATES))
        name = f"JOB_STATE_{state.upper() or 'UNSPECIFIED'}"
        request = trainer_pb2.ListJobsRequest(state=name)
        reply = self._connection.call(self._trainer.ListJobs, request)
        return [decode.job(message) for message in reply.jobs]

    def _handle(self, message: job_pb2.Job) -> JobHandle:
        return JobHandle(self._connection, self._trainer, decode.job(message))


def _header(
    display_name: str,
    shots: int,
    class_shots: Mapping[str, int] | None,
    max_test_per_class: int,
    seed: int,
    center_crop: float,
    idempotency_key: str | None,
) -> trainer_pb2.DatasetHeader:
    split = _message(
        trainer_pb2.SplitSpec,
        shots=shots,
        class_shots=dict(class_shots or {}),
        max_test_per_class=max_test_per_class,
        seed=seed,
    )
    return trainer_pb2.DatasetHeader(
        display_name=display_name,
        split=split,
        center_crop=center_crop,
        idempotency_key=_key(idempotency_key),
    )


def _synthetic(spec: Synthetic) -> trainer_pb2.SyntheticSpec:
    message: trainer_pb2.SyntheticSpec = _message(
        trainer_pb2.SyntheticSpec,
        adapter=spec.adapter,
        num_per_class=spec.num_per_class,
        seed=spec.seed,
        sampler=sampler_settings(spec.preset, spec.num_steps, spec.guidance_scale, spec.scheduler),
        loss_weight=spec.loss_weight,
    )
    return message


def _message(message_type: Any, **fields: Any) -> Any:
    """Build a message; a value that its field cannot hold is an invalid argument."""
    for name, value in fields.items():
        try:
            message_type(**{name: value})
        except (TypeError, ValueError) as error:
            raise invalid_argument(name, str(error)) from None
    return message_type(**fields)


def _key(key: str | None) -> str:
    return key or uuid.uuid4().hex
