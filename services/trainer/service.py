"""gRPC handlers of the trainer: decode, one call, encode."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common import resource_names
from services.common.database.jobs import MAX_LISTED, Job, JobDatabase
from services.common.errors import InvalidArgument, NotFound
from services.common.resource_names import ADAPTERS, CLASSIFIERS, DATASETS, JOBS, REPORTS
from services.common.rpc.handlers import Call, client_stream, server_stream, unary
from services.common.store.artifacts import ArtifactStore
from services.trainer import messages
from services.trainer.adapters import job as fit_adapter
from services.trainer.classifiers import job as fit_classifier
from services.trainer.config import TrainerSettings
from services.trainer.datasets.import_folder import import_folder
from services.trainer.deletion import delete_unused
from services.trainer.jobs.checkpoints import forget_checkpoints
from services.trainer.receive_dataset import receive_dataset
from services.trainer.reports import job as report
from services.trainer.studies import job as study

WATCH_POLL_SECONDS = 0.25
CHUNK_BYTES = 1_000_000


class TrainerService:
    """The handlers; ``wake_runner`` is called when there is a new job."""

    def __init__(
        self,
        settings: TrainerSettings,
        store: ArtifactStore,
        database: JobDatabase,
        wake_runner: Callable[[], None],
    ) -> None:
        self._settings, self._store, self._database = settings, store, database
        self._wake_runner = wake_runner

    @client_stream(pb.UploadDatasetResponse)
    async def UploadDataset(
        self, requests: AsyncIterator[pb.UploadDatasetRequest], call: Call
    ) -> pb.UploadDatasetResponse:
        """Keep a dataset, if all of it arrives and is good."""
        manifest = await receive_dataset(requests, self._store, call.tenant, self._settings)
        return pb.UploadDatasetResponse(dataset=messages.dataset_message(manifest))

    @unary(pb.ImportDatasetResponse)
    async def ImportDataset(
        self, request: pb.ImportDatasetRequest, call: Call
    ) -> pb.ImportDatasetResponse:
        """Make a dataset of a folder that the server may read."""
        header = messages.header_from(request.header)
        manifest = await asyncio.to_thread(
            import_folder, self._store, call.tenant, request.uri, header, self._settings
        )
        return pb.ImportDatasetResponse(dataset=messages.dataset_message(manifest))

    @unary(pb.GetDatasetResponse)
    async def GetDataset(self, request: pb.GetDatasetRequest, call: Call) -> pb.GetDatasetResponse:
        """Show a dataset."""
        manifest, _ = await self._artifact(DATASETS, request.name, call)
        return pb.GetDatasetResponse(dataset=messages.dataset_message(manifest))

    @unary(pb.ListDatasetsResponse)
    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, call: Call
    ) -> pb.ListDatasetsResponse:
        """List the caller's datasets, newest first."""
        manifests = await asyncio.to_thread(self._store.list, call.tenant, DATASETS)
        return pb.ListDatasetsResponse(datasets=map(messages.dataset_message, manifests))

    @unary(pb.DeleteDatasetResponse)
    async def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, call: Call
    ) -> pb.DeleteDatasetResponse:
        """Delete a dataset with proof."""
        return pb.DeleteDatasetResponse(proof=await self._delete(DATASETS, request.name, call))

    @unary(pb.CreateAdapterResponse)
    async def CreateAdapter(
        self, request: pb.CreateAdapterRequest, call: Call
    ) -> pb.CreateAdapterResponse:
        """Check the request and make a job of it."""
        job = await self._create("fit_adapter", fit_adapter.validate, request, call)
        return pb.CreateAdapterResponse(job=messages.job_message(job))

    @unary(pb.GetAdapterResponse)
    async def GetAdapter(self, request: pb.GetAdapterRequest, call: Call) -> pb.GetAdapterResponse:
        """Show an adapter."""
        manifest, digest = await self._artifact(ADAPTERS, request.name, call)
        return pb.GetAdapterResponse(adapter=messages.adapter_message(manifest, digest))

    @unary(pb.ListAdaptersResponse)
    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, call: Call
    ) -> pb.ListAdaptersResponse:
        """List the caller's adapters, newest first."""
        found = await self._artifacts(ADAPTERS, call)
        return pb.ListAdaptersResponse(adapters=[messages.adapter_message(*each) for each in found])

    @unary(pb.DeleteAdapterResponse)
    async def DeleteAdapter(
        self, request: pb.DeleteAdapterRequest, call: Call
    ) -> pb.DeleteAdapterResponse:
        """Delete an adapter with proof."""
        return pb.DeleteAdapterResponse(proof=await self._delete(ADAPTERS, request.name, call))

    @unary(pb.CreateClassifierResponse)
    async def CreateClassifier(
        self, request: pb.CreateClassifierRequest, call: Call
    ) -> pb.CreateClassifierResponse:
        """Check the request and make a job of it."""
        job = await self._create("fit_classifier", fit_classifier.validate, request, call)
        return pb.CreateClassifierResponse(job=messages.job_message(job))

    @unary(pb.GetClassifierResponse)
    async def GetClassifier(
        self, request: pb.GetClassifierRequest, call: Call
    ) -> pb.GetClassifierResponse:
        """Show a classifier."""
        manifest, digest = await self._artifact(CLASSIFIERS, request.name, call)
        return pb.GetClassifierResponse(classifier=messages.classifier_message(manifest, digest))

    @unary(pb.ListClassifiersResponse)
    async def ListClassifiers(
        self, request: pb.ListClassifiersRequest, call: Call
    ) -> pb.ListClassifiersResponse:
        """List the caller's classifiers, newest first."""
        found = await self._artifacts(CLASSIFIERS, call)
        return pb.ListClassifiersResponse(
            classifiers=[messages.classifier_message(*each) for each in found]
        )

    @unary(pb.DeleteClassifierResponse)
    async def DeleteClassifier(
        self, request: pb.DeleteClassifierRequest, call: Call
    ) -> pb.DeleteClassifierResponse:
        """Delete a classifier with proof, unless an alias points at it."""
        return pb.DeleteClassifierResponse(
            proof=await self._delete(CLASSIFIERS, request.name, call)
        )

    @unary(pb.CreateReportResponse)
    async def CreateReport(
        self, request: pb.CreateReportRequest, call: Call
    ) -> pb.CreateReportResponse:
        """Check the request and make a job of it."""
        job = await self._create("report", report.validate, request, call)
        return pb.CreateReportResponse(job=messages.job_message(job))

    @unary(pb.CreateStudyResponse)
    async def CreateStudy(
        self, request: pb.CreateStudyRequest, call: Call
    ) -> pb.CreateStudyResponse:
        """Check the request and make a job of it."""
        job = await self._create("study", study.validate, request, call)
        return pb.CreateStudyResponse(job=messages.job_message(job))

    @unary(pb.ListReportsResponse)
    async def ListReports(
        self, request: pb.ListReportsRequest, call: Call
    ) -> pb.ListReportsResponse:
        """List the caller's reports, newest first."""
        found = await self._artifacts(REPORTS, call)
        return pb.ListReportsResponse(reports=[messages.report_message(*each) for each in found])

    @unary(pb.DeleteReportResponse)
    async def DeleteReport(
        self, request: pb.DeleteReportRequest, call: Call
    ) -> pb.DeleteReportResponse:
        """Delete a report with proof."""
        return pb.DeleteReportResponse(proof=await self._delete(REPORTS, request.name, call))

    @server_stream
    async def DownloadReport(
        self, request: pb.DownloadReportRequest, call: Call
    ) -> AsyncGenerator[pb.DownloadReportResponse, None]:
        """Stream a report's files."""
        manifest, _ = await self._artifact(REPORTS, request.name, call)
        id = resource_names.parse(REPORTS, request.name, "name")
        for file_name in sorted(manifest["files"]):
            data = await asyncio.to_thread(self._store.read, call.tenant, REPORTS, id, file_name)
            for start in range(0, max(1, len(data)), CHUNK_BYTES):
                chunk = data[start : start + CHUNK_BYTES]
                yield pb.DownloadReportResponse(file_name=file_name, chunk=chunk)

    @unary(pb.GetJobResponse)
    async def GetJob(self, request: pb.GetJobRequest, call: Call) -> pb.GetJobResponse:
        """Show a job."""
        return pb.GetJobResponse(job=messages.job_message(await self._job(request.name, call)))

    @unary(pb.ListJobsResponse)
    async def ListJobs(self, request: pb.ListJobsRequest, call: Call) -> pb.ListJobsResponse:
        """List the caller's jobs, newest first."""
        if request.state not in job_pb2.JobState.values():
            raise InvalidArgument("state", f"is {request.state}", "send a JobState")
        name = job_pb2.JobState.Name(request.state).removeprefix("JOB_STATE_")
        state = None if name == "UNSPECIFIED" else name
        if not 0 <= request.page_size <= MAX_LISTED:
            problem = f"is {request.page_size}"
            raise InvalidArgument("page_size", problem, f"send 0 to {MAX_LISTED}")
        limit = request.page_size or MAX_LISTED
        found = await asyncio.to_thread(self._database.list, call.tenant, state, limit)
        return pb.ListJobsResponse(jobs=map(messages.job_message, found))

    @unary(pb.CancelJobResponse)
    async def CancelJob(self, request: pb.CancelJobRequest, call: Call) -> pb.CancelJobResponse:
        """Ask a job to stop; a final one stays unchanged."""
        id = resource_names.parse(JOBS, request.name, "name")
        job = await asyncio.to_thread(self._database.request_cancel, call.tenant, id)
        if job.is_final and job.checkpoint:
            await asyncio.to_thread(forget_checkpoints, self._store, call.tenant, id)
        return pb.CancelJobResponse(job=messages.job_message(job))

    @server_stream
    async def WatchJob(
        self, request: pb.WatchJobRequest, call: Call
    ) -> AsyncGenerator[pb.WatchJobResponse, None]:
        """Stream a job whenever it changes, to its end."""
        shown: Job | None = None
        while shown is None or not shown.is_final:
            job = await self._job(request.name, call)
            # Every heartbeat sets update_time; only what a reader sees counts as a change.
            if shown is None or replace(job, update_time=shown.update_time) != shown:
                yield pb.WatchJobResponse(job=messages.job_message(job))
                shown = job
            if not job.is_final:
                await asyncio.sleep(WATCH_POLL_SECONDS)

    async def _create(
        self,
        kind: str,
        validate: Callable[..., Mapping[str, object] | None],
        request: Any,
        call: Call,
    ) -> Job:
        spec = messages.plain(request)
        key = spec.pop("idempotency_key")

        def create() -> Job:
            resolved = validate(spec, self._store, call.tenant, self._settings)
            return self._database.create(call.tenant, kind, resolved or spec, key)

        job = await asyncio.to_thread(create)
        self._wake_runner()
        return job

    async def _job(self, name: str, call: Call) -> Job:
        id = resource_names.parse(JOBS, name, "name")
        return await asyncio.to_thread(self._database.get, call.tenant, id)

    async def _artifact(self, kind: str, name: str, call: Call) -> tuple[dict[str, Any], str]:
        id = resource_names.parse(kind, name, "name")
        manifest = await asyncio.to_thread(self._store.get_manifest, call.tenant, kind, id)
        digest = await asyncio.to_thread(self._store.manifest_digest, call.tenant, kind, id)
        return manifest, digest

    async def _artifacts(self, kind: str, call: Call) -> list[tuple[dict[str, Any], str]]:
        manifests = await asyncio.to_thread(self._store.list, call.tenant, kind)
        found = []
        for manifest in manifests:
            with contextlib.suppress(NotFound):  # deleted in between
                found.append(await self._artifact(kind, manifest["name"], call))
        return found

    async def _delete(self, kind: str, name: str, call: Call) -> pb.DeletionProof:
        id = resource_names.parse(kind, name, "name")
        proof = await asyncio.to_thread(
            delete_unused, self._store, self._database, call.tenant, kind, id
        )
        return messages.proof_message(proof)
