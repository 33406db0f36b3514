"""Client of the trainer: datasets, adapters, classifiers, reports, jobs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cytosynth.client import decode, encode
from cytosynth.client.connection import ServiceClient
from cytosynth.client.deprecated import settings_or_keywords, study_settings, synthetic_settings
from cytosynth.client.errors import invalid_argument
from cytosynth.client.image_tree import ImageTree, read_image_tree
from cytosynth.client.records import (
    FINAL_STATES,
    Adapter,
    Classifier,
    Dataset,
    DeletionProof,
    Job,
    Report,
    ReportArm,
    Synthetic,
)
from cytosynth.client.settings import (
    AdapterSettings,
    ClassifierSettings,
    SplitSettings,
    StudySettings,
    SyntheticSettings,
)
from cytosynth.client.trainer.jobs import JobHandle
from cytosynth.client.trainer.report_files import download_report
from cytosynth.client.trainer.upload import UPLOAD_SECONDS, OnUpload, upload
from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

JOB_STATES = ("PENDING", "RUNNING", *FINAL_STATES)
MAX_JOBS_LISTED = 1000


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
        split: SplitSettings | None = None,
        center_crop: float = 0.0,
        display_name: str = "",
        idempotency_key: str | None = None,
        on_progress: OnUpload | None = None,
        **deprecated: Any,
    ) -> Dataset:
        """Upload an ImageFolder tree and lock its split.

        Args:
            images: The folder, or what ``read_image_tree`` read from it.
            split: Shots, test images and seed.
            center_crop: Share of the shorter side to keep, centred; 0: estimated from the nuclei.
            display_name: Free text, at most 200 characters.
            idempotency_key: See the class.
            on_progress: Called with images sent and images in all.
            deprecated: Fields of ``split``, as the last release took them.

        Raises:
            CytosynthError: Names the file where a file is at fault; nothing is kept then.
        """
        split = settings_or_keywords(SplitSettings, split, deprecated, "upload_dataset", "split")
        tree = images if isinstance(images, ImageTree) else read_image_tree(images)
        unknown = sorted(set(split.class_shots) - set(tree.class_ids))
        if unknown:
            raise invalid_argument(
                "class_shots", f"no class {unknown[0]!r} in the folder", ", ".join(tree.class_ids)
            )
        header = _header(display_name, split, center_crop, idempotency_key)
        message = upload(self._connection, self._trainer, header, tree.images, on_progress)
        return decode.dataset(message, tree.notices)

    def import_dataset(
        self,
        uri: str,
        *,
        split: SplitSettings | None = None,
        center_crop: float = 0.0,
        display_name: str = "",
        idempotency_key: str | None = None,
        **deprecated: Any,
    ) -> Dataset:
        """Make a dataset from an ImageFolder tree at a server's URI.

        Args and errors are those of ``upload_dataset``.
        """
        split = settings_or_keywords(SplitSettings, split, deprecated, "import_dataset", "split")
        header = _header(display_name, split, center_crop, idempotency_key)
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
        settings: AdapterSettings | None = None,
        *,
        base: str = "",
        idempotency_key: str | None = None,
        **deprecated: Any,
    ) -> JobHandle:
        """Start LoRA training of ``base`` on the few-shot images of ``datasets/{dataset}``."""
        settings = settings_or_keywords(AdapterSettings, settings, deprecated, "fit_adapter")
        request = trainer_pb2.CreateAdapterRequest(
            dataset=dataset,
            base=base,
            settings=encode.message(settings),
            idempotency_key=_key(idempotency_key),
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
        settings: ClassifierSettings | None = None,
        *,
        synthetic: SyntheticSettings | Synthetic | None = None,
        idempotency_key: str | None = None,
        **deprecated: Any,
    ) -> JobHandle:
        """Start classifier training, on real images alone or with ``synthetic`` ones."""
        settings = settings_or_keywords(ClassifierSettings, settings, deprecated, "fit_classifier")
        part = synthetic_settings(synthetic)
        request = trainer_pb2.CreateClassifierRequest(
            dataset=dataset,
            settings=encode.message(settings),
            synthetic=encode.message(part) if part else None,
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

    def delete_classifier(self, name: str) -> DeletionProof:
        """Delete a classifier without alias; the proof says what is gone."""
        request = trainer_pb2.DeleteClassifierRequest(name=name)
        reply = self._connection.call(self._trainer.DeleteClassifier, request)
        return decode.deletion_proof(reply.proof)

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
        request = encode.checked(
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
        settings: StudySettings | Mapping[str, Any] | None = None,
        *,
        title: str = "",
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Start a study of ``datasets/{dataset}``; its job's result is a report.

        Args:
            dataset: Its images are split anew for every replicate.
            settings: What is compared; a mapping by field name is deprecated.
            title: Title of the report.
            idempotency_key: See the class.
        """
        request = trainer_pb2.CreateStudyRequest(
            dataset=dataset,
            settings=encode.message(study_settings(settings)),
            title=title,
            idempotency_key=_key(idempotency_key),
        )
        return self._handle(self._connection.call(self._trainer.CreateStudy, request).job)

    def list_reports(self) -> list[Report]:
        """The caller's reports, newest first."""
        reply = self._connection.call(self._trainer.ListReports, trainer_pb2.ListReportsRequest())
        return [decode.report(message) for message in reply.reports]

    def delete_report(self, name: str) -> DeletionProof:
        """Delete a report and its files; the proof says what is gone."""
        request = trainer_pb2.DeleteReportRequest(name=name)
        reply = self._connection.call(self._trainer.DeleteReport, request)
        return decode.deletion_proof(reply.proof)

    def download_report(self, name: str, folder: str | Path) -> list[Path]:
        """Write the files of ``reports/{report}`` to ``folder``; each appears whole or not."""
        return download_report(self._connection, self._trainer, name, Path(folder))

    # Jobs

    def job(self, name: str) -> JobHandle:
        """A job by its name."""
        request = trainer_pb2.GetJobRequest(name=name)
        return self._handle(self._connection.call(self._trainer.GetJob, request).job)

    def list_jobs(self, state: str = "", *, limit: int = 0) -> list[Job]:
        """The caller's jobs, newest first.

        Args:
            state: Only jobs in this state, for example ``RUNNING``; empty: all.
            limit: Most jobs wanted, 1 to 1000; 0: 1000.
        """
        if state and state.upper() not in JOB_STATES:
            raise invalid_argument("state", f"{state!r} is unknown", ", ".join(JOB_STATES))
        if not 0 <= limit <= MAX_JOBS_LISTED:
            raise invalid_argument("limit", f"{limit} is not 0 to {MAX_JOBS_LISTED}")
        name = f"JOB_STATE_{state.upper() or 'UNSPECIFIED'}"
        request = trainer_pb2.ListJobsRequest(state=name, page_size=limit)
        reply = self._connection.call(self._trainer.ListJobs, request)
        # A server of the last release does not know the limit.
        return [decode.job(message) for message in reply.jobs][: limit or None]

    def _handle(self, message: job_pb2.Job) -> JobHandle:
        return JobHandle(self._connection, self._trainer, decode.job(message))


def _header(
    display_name: str, split: SplitSettings, center_crop: float, idempotency_key: str | None
) -> trainer_pb2.DatasetHeader:
    header: trainer_pb2.DatasetHeader = encode.checked(
        trainer_pb2.DatasetHeader,
        display_name=display_name,
        split=encode.message(split),
        center_crop=center_crop,
        idempotency_key=_key(idempotency_key),
    )
    return header


def _key(key: str | None) -> str:
    return key or uuid.uuid4().hex
