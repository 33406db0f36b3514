"""A real gRPC server with three tiny services whose answers can be worked out by hand.

- Synthetic image i of class c is the bytes ``c:i``, its seed is ``1000 + i``.
- A dataset has a class per folder; its shots train, the rest is the test set.
- A job runs through steps 1, 2, 3 and succeeds, unless its script says otherwise.
- An image's first byte b gives class ``blast`` the probability b / 255, ``mono`` the rest.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_status import rpc_status

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.common.v1 import image_pb2, job_pb2
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from services.common.errors import DomainError, InvalidArgument, NotFound
from services.common.rpc.handlers import to_status

MANIFEST = {"base": "toy", "num_steps": 2}
MANIFEST_JSON = json.dumps(MANIFEST)
MANIFEST_DIGEST = hashlib.sha256(MANIFEST_JSON.encode()).hexdigest()
MESSAGE_LIMIT = 32 * 1024 * 1024


def fail(context: grpc.ServicerContext, error: BaseException) -> None:
    """End the call as the real services do."""
    context.abort_with_status(rpc_status.to_status(to_status(error, "request-7")))


@dataclass
class Break:
    """Ends a stream after so many images."""

    num_images: int
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


class ToyGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    """Draws text; ``breaks`` are used up by one call each."""

    def __init__(self) -> None:
        self.requests: list[generator_pb2.SynthesizeRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.breaks: list[Break] = []
        self.skip = self.double = -1
        self.new_manifest_from = -1
        self.class_ids = {"blast", "mono", "lymph"}

    def Synthesize(
        self, request: generator_pb2.SynthesizeRequest, context: grpc.ServicerContext
    ) -> Iterator[generator_pb2.SynthesizeResponse]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        broken = self.breaks.pop(0) if self.breaks else None
        class_ids: list[str] = []
        for number, entry in enumerate(request.class_counts):
            if entry.num_images < 1:
                field_ = f"class_counts[{number}].num_images"
                fail(context, InvalidArgument(field_, f"is {entry.num_images}", "send 1 or more"))
            if entry.class_id not in self.class_ids:
                fail(context, InvalidArgument("class_counts", f"no class {entry.class_id}", ""))
            class_ids += [entry.class_id] * entry.num_images
        for num_sent, index in enumerate(range(request.first_index, len(class_ids))):
            if broken and num_sent == broken.num_images:
                context.abort(broken.code, "the replica is gone")
            if index == self.skip:
                continue
            for _ in range(2 if index == self.double else 1):
                yield self._image(index, class_ids[index], first=num_sent == 0)
        if broken and broken.num_images >= len(class_ids) - request.first_index:
            context.abort(broken.code, "the replica is gone")

    def _image(self, index: int, class_id: str, first: bool) -> generator_pb2.SynthesizeResponse:
        is_new = 0 <= self.new_manifest_from <= index
        return generator_pb2.SynthesizeResponse(
            index=index,
            class_id=class_id,
            image_seed=1000 + index,
            image=f"{class_id}:{index}".encode(),
            image_format=image_pb2.IMAGE_FORMAT_PNG,
            width=64,
            height=48,
            manifest_digest="f" * 64 if is_new else MANIFEST_DIGEST,
            manifest_json=MANIFEST_JSON if first else "",
        )

    def GetCapabilities(
        self, request: generator_pb2.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> generator_pb2.GetCapabilitiesResponse:
        return generator_pb2.GetCapabilitiesResponse(
            bases=["toy"],
            default_base="toy",
            presets={"fast": generator_pb2.SamplerSettings(num_steps=2, guidance_scale=1.5)},
            max_num_images=1000,
            batch_size=4,
            image_size={"toy": 64},
        )


@dataclass
class Upload:
    """What one upload sent."""

    header: trainer_pb2.DatasetHeader | None = None
    images: list[trainer_pb2.DatasetImage] = field(default_factory=list)
    committed: bool = False


class ToyTrainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Keeps datasets and jobs in memory; ``job_errors`` fails the next job of a kind.

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
        self.requests.append(request)
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
        job = self._job("fit_adapter", "adapters/a", request)
        return trainer_pb2.CreateAdapterResponse(job=job)

    def CreateClassifier(
        self, request: trainer_pb2.CreateClassifierRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateClassifierResponse:
        job = self._job("fit_classifier", "classifiers/c", request)
        return trainer_pb2.CreateClassifierResponse(job=job)

    def CreateReport(
        self, request: trainer_pb2.CreateReportRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateReportResponse:
        return trainer_pb2.CreateReportResponse(job=self._job("report", "reports/r", request))

    def CreateStudy(
        self, request: trainer_pb2.CreateStudyRequest, context: grpc.ServicerContext
    ) -> trainer_pb2.CreateStudyResponse:
        return trainer_pb2.CreateStudyResponse(job=self._job("study", "reports/study", request))

    def _job(self, kind: str, result: str, request: Any) -> job_pb2.Job:
        key = request.idempotency_key
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
        return trainer_pb2.ListJobsResponse(jobs=[self._shown(job) for job in reversed(chosen)])

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
        for place, image in enumerate(request.images):
            if image == b"not an image":
                field_ = f"images[{place}]"
                fail(context, InvalidArgument(field_, "is not an image", "send PNG or JPEG"))
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

    def ListAliases(
        self, request: classifier_pb2.ListAliasesRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ListAliasesResponse:
        return classifier_pb2.ListAliasesResponse(aliases=[self._alias(n) for n in self.aliases])

    def _alias(self, name: str) -> classifier_pb2.Alias:
        history = self.aliases[name]
        previous = history[-2] if len(history) > 1 else ""
        return classifier_pb2.Alias(name=name, model=history[-1], previous_model=previous)


class ToyServices:
    """The three services at one address; can be stopped and started again on its port."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._credentials = credentials
        self.generator = ToyGenerator()
        self.trainer = ToyTrainer()
        self.classifier = ToyClassifier()
        self._server: grpc.Server | None = None
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        limits = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ]
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(self.generator, self._server)
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self.trainer, self._server)
        classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(self.classifier, self._server)
        address = f"127.0.0.1:{self._port}"
        if self._credentials:
            self._port = self._server.add_secure_port(address, self._credentials)
        else:
            self._port = self._server.add_insecure_port(address)
        self._server.start()

    def stop(self) -> None:
        if self._server:
            self._server.stop(None).wait()
            self._server = None


@contextmanager
def toy_services(credentials: grpc.ServerCredentials | None = None) -> Iterator[ToyServices]:
    """Run the toy services for the length of a ``with`` block."""
    services = ToyServices(credentials)
    try:
        yield services
    finally:
        services.trainer.hold.set()
        services.stop()
