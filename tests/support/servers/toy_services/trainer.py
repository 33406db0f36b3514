"""A trainer whose unscripted jobs take steps 1, 2, 3 and succeed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound
from services.common.rpc.handlers import to_status
from tests.support.servers.toy_services.failure import fail


@dataclass
class Upload:
    """What one upload sent."""

    header: trainer_pb2.DatasetHeader | None = None
    images: list[trainer_pb2.DatasetImage] = field(default_factory=list)
    committed: bool = False


class ToyTrainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Keeps datasets and jobs in memory.

    ``job_errors`` fails the next job of a kind, ``refusals`` the next request for one, and
    ``refuse_requests`` so many creations as a lost replica would.

    An upload's image number ``pause_uploads_at`` is the last one read until ``resume_uploads``.
    """

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.datasets: dict[str, trainer_pb2.Dataset] = {}
        self.jobs: dict[str, job_pb2.Job] = {}
        self.jobs_by_key: dict[str, str] = {}
        self.requests: list[Any] = []
        self.job_errors: dict[str, DomainError] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.break_watch_after: list[int] = []
        self.refuse_uploads = 0
        self.refuse_requests = 0
        self.refusals: dict[str, DomainError] = {}
        self.keys: list[str] = []
        self.pause_uploads_at: int | None = None
        self.resume_uploads = threading.Event()

    def UploadDataset(
        self,
        requests: Iterator[trainer_pb2.UploadDatasetRequest],
        context: grpc.ServicerContext,
    ) -> trainer_pb2.UploadDatasetResponse:
        if self.refuse_uploads:
            self.refuse_uploads -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        upload = Upload()
        self.uploads.append(upload)
        for request in requests:
            if request.HasField("header"):
                upload.header = request.header
            elif request.HasField("image"):
                upload.images.append(request.image)
                if len(upload.images) == self.pause_uploads_at:
                    self.resume_uploads.wait(60)
                if request.image.data == b"not an image":
                    fail(context, InvalidArgument(request.image.file_name, "is not an image", ""))
            else:
                upload.committed = request.commit.num_images == len(upload.images)
        if not upload.committed or upload.header is None:
            fail(context, InvalidArgument("commit", "the upload was cut off", "upload again"))
        assert upload.header is not None
        dataset = self._dataset(upload.header, upload.images)
        return trainer_pb2.UploadDatasetResponse(dataset=dataset)

    def _dataset(
        self, header: trainer_pb2.DatasetHeader, images: list[trainer_pb2.DatasetImage]
    ) -> trainer_pb2.Dataset:
        dataset = trainer_pb2.Dataset(
            name=f"datasets/d{len(self.datasets) + 1}",
            display_name=header.display_name,
            notices=["toy notice"],
            center_crop=header.center_crop or 0.8,
        )
        dataset.create_time.FromSeconds(1_000)
        for class_id in sorted({image.class_id for image in images}):
            num_images = sum(image.class_id == class_id for image in images)
            shots = header.split.class_shots.get(class_id, header.split.shots)
            entry = dataset.classes.add(class_id=class_id, num_images=num_images)
            if num_images < 2:
                entry.left_out_reason = "it has one image"
            else:
                entry.num_train, entry.num_test = shots, num_images - shots
        self.datasets[dataset.name] = dataset
        return dataset

    def ImportDataset(
        self, request: trainer_pb2.ImportDatasetRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ImportDatasetResponse:
        if self.refuse_requests:
            self.refuse_requests -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is gone")
        self.requests.append(request)
        self.keys.append(request.header.idempotency_key)
        images = [trainer_pb2.DatasetImage(class_id="blast") for _ in range(10)]
        return trainer_pb2.ImportDatasetResponse(dataset=self._dataset(request.header, images))

    def GetDataset(
        self, request: trainer_pb2.GetDatasetRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetDatasetResponse:
        if request.name not in self.datasets:
            fail(context, NotFound(request.name, "list datasets to see which exist"))
        return trainer_pb2.GetDatasetResponse(dataset=self.datasets[request.name])

    def ListDatasets(
        self, request: trainer_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ListDatasetsResponse:
        return trainer_pb2.ListDatasetsResponse(datasets=self.datasets.values())

    def DeleteDataset(
        self, request: trainer_pb2.DeleteDatasetRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.DeleteDatasetResponse:
        dataset = self.datasets.pop(request.name)
        num_objects = sum(item.num_images for item in dataset.classes)
        proof = trainer_pb2.DeletionProof(name=request.name, num_objects=num_objects, digest="d1")
        return trainer_pb2.DeleteDatasetResponse(proof=proof)

    def CreateAdapter(
        self, request: trainer_pb2.CreateAdapterRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateAdapterResponse:
        job = self._job("fit_adapter", "adapters/a", request, context)
        return trainer_pb2.CreateAdapterResponse(job=job)

    def CreateClassifier(
        self, request: trainer_pb2.CreateClassifierRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateClassifierResponse:
        job = self._job("fit_classifier", "classifiers/c", request, context)
        return trainer_pb2.CreateClassifierResponse(job=job)

    def DeleteClassifier(
        self, request: trainer_pb2.DeleteClassifierRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.DeleteClassifierResponse:
        if request.name == "classifiers/c1":
            remedy = "remove it with `cytosynth alias delete production`"
            fail(
                context, FailedPrecondition(request.name, "aliases/production points at it", remedy)
            )
        proof = trainer_pb2.DeletionProof(name=request.name, num_objects=3, digest="d3")
        return trainer_pb2.DeleteClassifierResponse(proof=proof)

    def ListReports(
        self, request: trainer_pb2.ListReportsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ListReportsResponse:
        report = trainer_pb2.Report(
            name="reports/r1", kind="report", dataset="datasets/d1", title="Ward 3"
        )
        return trainer_pb2.ListReportsResponse(reports=[report])

    def DeleteReport(
        self, request: trainer_pb2.DeleteReportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.DeleteReportResponse:
        proof = trainer_pb2.DeletionProof(name=request.name, num_objects=4, digest="d4")
        return trainer_pb2.DeleteReportResponse(proof=proof)

    def CreateReport(
        self, request: trainer_pb2.CreateReportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateReportResponse:
        return trainer_pb2.CreateReportResponse(
            job=self._job("report", "reports/r", request, context)
        )

    def CreateStudy(
        self, request: trainer_pb2.CreateStudyRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateStudyResponse:
        return trainer_pb2.CreateStudyResponse(
            job=self._job("study", "reports/study", request, context)
        )

    def _job(
        self, kind: str, result: str, request: Any, context: grpc.ServicerContext
    ) -> job_pb2.Job:
        if self.refuse_requests:
            self.refuse_requests -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is gone")
        refusal = self.refusals.pop(kind, None)
        if refusal is not None:
            fail(context, refusal)
        key = request.idempotency_key
        self.keys.append(key)
        if key not in self.jobs_by_key:
            self.requests.append(request)
            name = f"jobs/j{len(self.jobs) + 1}"
            self.jobs_by_key[key] = name
            job = job_pb2.Job(name=name, kind=kind, state=job_pb2.JOB_STATE_PENDING)
            job.result = f"{result}{len(self.jobs) + 1}"  # Shown only once it has succeeded.
            job.create_time.FromSeconds(2_000)
            self.jobs[name] = job
        return self._shown(self.jobs[self.jobs_by_key[key]])

    def _shown(self, job: job_pb2.Job) -> job_pb2.Job:
        shown = job_pb2.Job()
        shown.CopyFrom(job)
        if shown.state != job_pb2.JOB_STATE_SUCCEEDED:
            shown.ClearField("result")
        return shown

    def GetJob(
        self, request: trainer_pb2.GetJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetJobResponse:
        if request.name not in self.jobs:
            fail(context, NotFound(request.name))
        return trainer_pb2.GetJobResponse(job=self._shown(self.jobs[request.name]))

    def ListJobs(
        self, request: trainer_pb2.ListJobsRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ListJobsResponse:
        chosen = [job for job in self.jobs.values() if request.state in (0, job.state)]
        newest = list(reversed(chosen))[: request.page_size or None]
        return trainer_pb2.ListJobsResponse(jobs=[self._shown(job) for job in newest])

    def CancelJob(
        self, request: trainer_pb2.CancelJobRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CancelJobResponse:
        self.jobs[request.name].state = job_pb2.JOB_STATE_CANCELLED
        self.hold.set()
        return trainer_pb2.CancelJobResponse(job=self._shown(self.jobs[request.name]))

    def WatchJob(
        self, request: trainer_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[trainer_pb2.WatchJobResponse]:
        job = self.jobs[request.name]
        breaks_after = self.break_watch_after.pop(0) if self.break_watch_after else -1
        num_sent = 0
        final = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
        while True:
            if num_sent == breaks_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the replica is gone")
            yield trainer_pb2.WatchJobResponse(job=self._shown(job))
            num_sent += 1
            if job.state in final:
                return
            self.hold.wait(20)
            self._advance(job)

    def _advance(self, job: job_pb2.Job) -> None:
        if job.state == job_pb2.JOB_STATE_CANCELLED:
            return
        error = self.job_errors.get(job.kind)
        if job.progress.step == 3 and error is None:
            job.state = job_pb2.JOB_STATE_SUCCEEDED
        elif job.progress.step == 1 and error is not None:
            del self.job_errors[job.kind]
            job.state = job_pb2.JOB_STATE_FAILED
            job.error.CopyFrom(to_status(error))
        else:
            job.state = job_pb2.JOB_STATE_RUNNING
            job.progress.phase = "training"
            job.progress.step += 1
            job.progress.total_steps = 3
            job.progress.eta_seconds = 3.0 - job.progress.step
            job.progress.metrics["loss"] = 1 / job.progress.step

    def GetAdapter(
        self, request: trainer_pb2.GetAdapterRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.GetAdapterResponse:
        adapter = trainer_pb2.Adapter(
            name=request.name,
            base="toy",
            class_ids=["blast", "mono"],
            settings=trainer_pb2.AdapterSettings(rank=16),
            metrics={"loss": 0.5},
        )
        return trainer_pb2.GetAdapterResponse(adapter=adapter)

    def ListClassifiers(
        self, request: trainer_pb2.ListClassifiersRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.ListClassifiersResponse:
        classifier = trainer_pb2.Classifier(
            name="classifiers/c1",
            settings=trainer_pb2.ClassifierSettings(architecture="clip"),
            synthetic=trainer_pb2.SyntheticSpec(adapter="adapters/a1", num_per_class=5),
            metrics={"macro_f1": 0.75},
        )
        return trainer_pb2.ListClassifiersResponse(classifiers=[classifier])

    def DownloadReport(
        self, request: trainer_pb2.DownloadReportRequest, context: grpc.ServicerContext
    ) -> Iterator[trainer_pb2.DownloadReportResponse]:
        if request.name == "reports/evil":
            yield trainer_pb2.DownloadReportResponse(file_name="../evil", chunk=b"x")
            return
        if request.name.startswith("reports/study"):
            text = json.dumps(TOY_STUDY).encode()
            yield trainer_pb2.DownloadReportResponse(file_name="report.json", chunk=text)
            page = b"<html>Research use only</html>"
            yield trainer_pb2.DownloadReportResponse(file_name="report.html", chunk=page)
            return
        made = next(r for r in reversed(self.requests) if hasattr(r, "phase_seconds"))
        arms: dict[str, Any] = {}
        for number, arm in enumerate(made.arms):
            figures = {"macro_f1": 0.5 + number / 10, "intervals": {"macro_f1": [0.4, 0.9]}}
            arms.setdefault(arm.model, {})[arm.arm] = figures
        change = {"macro_f1": {"difference": 0.1, "interval": [-0.05, 0.25]}}
        report = {
            "arms": arms,
            "paired_differences": {"resnet18": {"real_plus_synthetic_minus_real_only": change}},
            "num_synthetic": 10,
            "seconds": dict(made.phase_seconds),
        }
        text = json.dumps(report).encode()
        for name, data in (
            ("report.html", b"<html>Research use only</html>"),
            ("report.json", text),
        ):
            for start in range(0, len(data), 20):
                chunk = data[start : start + 20]
                yield trainer_pb2.DownloadReportResponse(file_name=name, chunk=chunk)


_TOY_FIGURES = {"macro_f1": 0.5, "intervals": {"macro_f1": [0.4, 0.6]}}
_TOY_CHANGE = {"mean": 0.05, "low": 0.01, "high": 0.09}
TOY_STUDY: dict[str, Any] = {
    "arms": {"clip": {"real_only": _TOY_FIGURES, "real_plus_synthetic_4": _TOY_FIGURES}},
    "differences": {"clip": {"real_plus_synthetic_4": {"macro_f1": _TOY_CHANGE}}},
    "paired_difference": {"clip": {"macro_f1": _TOY_CHANGE}},
    "draws": [{}, {}],
}
