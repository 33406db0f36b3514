"""The trainer's contract, over a real channel to the real Serve app, on a tiny base."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from cytosynth.common.v1 import job_pb2
from cytosynth.trainer.v1 import trainer_pb2 as pb
from cytosynth.trainer.v1 import trainer_pb2_grpc
from services.common.models import lora
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.store.artifacts import ArtifactStore
from services.operations import drain_jobs
from tests.support import fakes
from tests.support.local_serve import local_serve, replica_processes

SERVICER = "cytosynth.trainer.v1.trainer_pb2_grpc.add_TrainerServiceServicer_to_server"
CLASSES = ("basophil", "monocyte")
FINAL = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Running:
    """A running trainer, a client's stub for it, and where it keeps things."""

    stub: trainer_pb2_grpc.TrainerServiceStub
    root: Path
    store: ArtifactStore

    def upload(self, requests: list[pb.UploadDatasetRequest], tenant: str = "") -> pb.Dataset:
        """The dataset of an upload."""
        metadata = [("x-cytosynth-tenant", tenant)] if tenant else []
        answer = self.stub.UploadDataset(iter(requests), timeout=60, metadata=metadata)
        return answer.dataset

    def create_adapter(self, dataset: str, key: str = "", **settings: Any) -> job_pb2.Job:
        """The job of a new adapter."""
        request = adapter_request(dataset, key, **settings)
        return self.stub.CreateAdapter(request, timeout=30).job

    def watch(self, name: str) -> list[job_pb2.Job]:
        """All states of a job to its end."""
        answers = self.stub.WatchJob(pb.WatchJobRequest(name=name), timeout=600)
        return [answer.job for answer in answers]

    def stored_files(self) -> set[Path]:
        """Every file in the store."""
        return {path for path in (self.root / "store").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("trainer")
    fakes.write_tiny_base(root / "models", "tiny")
    os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
    # Imported late: Ray reads its environment when it is imported.
    from services.trainer.app import APP_NAME, build_app
    from services.trainer.config import TrainerSettings

    settings = TrainerSettings(
        store_uri=f"file://{root}/store",
        database_url=f"sqlite:///{root}/jobs.db",
        models_dir=root / "models",
        default_base="tiny",
        lease_seconds=4.0,
        heartbeat_seconds=0.2,
        checkpoint_seconds=0.0,
        runner_num_threads=1,
        runner_idle_seconds=20.0,
        upload_idle_seconds=3.0,
        drain_file=root / "drain",
    )
    with local_serve(build_app(settings), APP_NAME, [SERVICER]) as address:
        with grpc.insecure_channel(address) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            yield Running(stub, root, ArtifactStore(settings.store_uri))


@pytest.fixture(scope="module")
def dataset(running: Running) -> str:
    return running.upload(upload_requests(key="shared dataset")).name


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(coarse.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def header(**fields: Any) -> pb.UploadDatasetRequest:
    fields.setdefault("split", pb.SplitSpec(shots=3))
    key = fields.pop("key", "")
    return pb.UploadDatasetRequest(
        header=pb.DatasetHeader(center_crop=1.0, idempotency_key=key, **fields)
    )


def image(number: int, **fields: Any) -> pb.UploadDatasetRequest:
    values = {
        "class_id": CLASSES[number % 2],
        "file_name": f"{number}.png",
        "data": png(number),
        **fields,
    }
    return pb.UploadDatasetRequest(image=pb.DatasetImage(**values))


def commit(count: int) -> pb.UploadDatasetRequest:
    return pb.UploadDatasetRequest(commit=pb.DatasetCommit(num_images=count))


def upload_requests(num_images: int = 10, **fields: Any) -> list[pb.UploadDatasetRequest]:
    return [header(**fields), *map(image, range(num_images)), commit(num_images)]


def adapter_request(dataset: str, key: str = "", **settings: Any) -> pb.CreateAdapterRequest:
    base = settings.pop("base", "")
    values = {"rank": 2, "alpha": 2.0, "num_steps": 6, "batch_size": 2, **settings}
    return pb.CreateAdapterRequest(
        dataset=dataset,
        base=base,
        settings=pb.AdapterSettings(**values),
        idempotency_key=key,
    )


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    """Code, message and violated field of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    field = ""
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert "Traceback" not in error.details() and "/" + "tmp" not in error.details()
    return error.code(), error.details(), field


def test_an_upload_is_split_and_shown(running: Running) -> None:
    shown = running.upload([*upload_requests(key="first", display_name="ward 7")])
    assert shown.name.startswith("datasets/") and shown.display_name == "ward 7"
    assert [(c.class_id, c.num_images, c.num_train, c.num_test) for c in shown.classes] == [
        ("basophil", 5, 3, 2),
        ("monocyte", 5, 3, 2),
    ]
    assert len(shown.split_digest) == 64 and shown.center_crop == 1.0
    got = running.stub.GetDataset(pb.GetDatasetRequest(name=shown.name), timeout=10)
    assert got.dataset == shown
    again = running.upload([*upload_requests(key="first", display_name="ward 7")])
    assert again == shown
    listed = running.stub.ListDatasets(pb.ListDatasetsRequest(), timeout=10).datasets
    assert [each.name for each in listed].count(shown.name) == 1


def test_another_upload_under_a_used_key_is_refused(running: Running, dataset: str) -> None:
    requests = upload_requests(8, key="shared dataset")
    code, message, _ = refusal(lambda: running.upload(requests))
    assert code == grpc.StatusCode.ALREADY_EXISTS and "idempotency_key" in message


UPLOADS: list[tuple[str, list[pb.UploadDatasetRequest], str, str]] = [
    ("no commit", [header(), image(0), image(1)], "commit", "send the whole upload again"),
    ("nothing", [], "commit", "again"),
    ("wrong count", [header(), image(0), image(1), commit(3)], "commit.num_images", "2 images"),
    ("image first", [image(0), commit(1)], "header", "header first"),
    ("two headers", [header(), header()], "header", "twice"),
    ("empty message", [header(), pb.UploadDatasetRequest()], "part", "not set"),
    ("truncated", [header(), image(0, data=png(0)[:-20])], "image.data", "'0.png'"),
    ("no image", [header(), image(0, data=b"text", file_name="notes.txt")], "image.data", "notes"),
    ("bad class", [header(), image(0, class_id="Not A Class")], "image.class_id", "a-z"),
    ("bad shots", [header(split=pb.SplitSpec(shots=-1))], "header.split.shots", "0 or more"),
    ("no images", [header(), commit(0)], "image", "at least two"),
    (
        "nothing to split",
        [header(), image(0), commit(1)],
        "header.split",
        "more images",
    ),
]


@pytest.mark.parametrize(
    ("requests", "field", "hint"), [u[1:] for u in UPLOADS], ids=[u[0] for u in UPLOADS]
)
def test_a_bad_upload_names_the_field_and_keeps_nothing(
    running: Running, requests: list[pb.UploadDatasetRequest], field: str, hint: str
) -> None:
    before = running.stored_files()
    code, message, named = refusal(lambda: running.upload(requests))
    assert (code, named) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert hint in message
    assert running.stored_files() == before


def test_a_cut_upload_keeps_nothing_and_the_service_stays_up(running: Running) -> None:
    before = running.stored_files()

    def forever() -> Iterator[pb.UploadDatasetRequest]:
        yield header(key="cut")
        for number in range(4):
            yield image(number)
        time.sleep(30)

    call = running.stub.UploadDataset.future(forever(), timeout=60)
    time.sleep(1.5)
    call.cancel()
    time.sleep(1.0)
    assert running.stored_files() == before
    assert running.upload(upload_requests(key="cut")).name


def test_a_silent_upload_ends(running: Running) -> None:
    def silent() -> Iterator[pb.UploadDatasetRequest]:
        yield header()
        yield image(0)
        time.sleep(10)

    def call() -> None:
        running.stub.UploadDataset(silent(), timeout=30)

    code, message, field = refusal(call)
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "commit")
    assert "nothing came for 3 s" in message


def test_import_reads_only_the_callers_drop_folder(running: Running) -> None:
    for tenant in ("local", "other"):
        for number in range(8):
            path = running.root / f"store/imports/{tenant}/cells/{CLASSES[number % 2]}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))

    def ask(uri: str) -> pb.Dataset:
        request = pb.ImportDatasetRequest(uri=uri, header=header().header)
        return running.stub.ImportDataset(request, timeout=30).dataset

    store = f"file://{running.root}/store"
    assert sum(each.num_images for each in ask(f"{store}/imports/local/cells").classes) == 8
    for uri in (f"{store}/imports/other/cells", "file:///etc", f"{store}/tenants/local"):
        code, message, _ = refusal(lambda uri=uri: ask(uri))
        assert code == grpc.StatusCode.PERMISSION_DENIED and "upload" in message


def test_deletion_is_proved_and_datasets_are_the_tenants_own(running: Running) -> None:
    name = running.upload(upload_requests(), tenant="clinic-a").name

    def get(tenant: str) -> pb.GetDatasetResponse:
        metadata = [("x-cytosynth-tenant", tenant)]
        return running.stub.GetDataset(
            pb.GetDatasetRequest(name=name), timeout=10, metadata=metadata
        )

    def delete(tenant: str) -> pb.DeletionProof:
        metadata = [("x-cytosynth-tenant", tenant)]
        request = pb.DeleteDatasetRequest(name=name)
        return running.stub.DeleteDataset(request, timeout=10, metadata=metadata).proof

    assert get("clinic-a").dataset.name == name
    for action in (get, delete):
        code, message, _ = refusal(lambda action=action: action("clinic-b"))
        assert code == grpc.StatusCode.NOT_FOUND and name in message
    proof = delete("clinic-a")
    assert (proof.name, proof.num_objects, len(proof.digest)) == (name, 11, 64)
    assert refusal(lambda: get("clinic-a"))[0] == grpc.StatusCode.NOT_FOUND
    assert not [p for p in running.stored_files() if name.split("/")[1] in str(p)]


def test_an_adapter_is_trained_watched_and_shown(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, "an adapter", num_steps=12)
    assert job.kind == "fit_adapter" and job.name.startswith("jobs/")
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert job_pb2.JOB_STATE_RUNNING in {each.state for each in seen}
    training = [each.progress for each in seen if each.progress.phase == "training adapter"]
    assert training[-1].total_steps == 12 and training[-1].metrics["loss"] > 0
    assert seen[-1].progress.phase == "auditing the adapter"
    name = seen[-1].result
    adapter = running.stub.GetAdapter(pb.GetAdapterRequest(name=name), timeout=10).adapter
    assert (adapter.base, adapter.dataset) == ("tiny", dataset)
    assert list(adapter.class_ids) == list(CLASSES)
    assert 0 <= adapter.metrics["membership_auc"] <= 1
    assert (adapter.settings.rank, adapter.settings.num_steps) == (2, 12)
    assert adapter.settings.preset == "cpu" and adapter.settings.learning_rate > 0
    assert len(adapter.manifest_digest) == 64 and adapter.metrics["num_images"] == 6

    weights = running.store.read(
        "local", "adapters", name.split("/")[1], f"shared/{lora.WEIGHTS_FILE}"
    )
    pipeline = load_pipeline(resolve_base("tiny", running.root / "models"))
    fakes.load_lora(pipeline, weights)
    assert lora.lora_parameters(pipeline)
    again = running.create_adapter(dataset, "an adapter", num_steps=12)
    assert (again.name, again.state) == (job.name, job_pb2.JOB_STATE_SUCCEEDED)
    assert not list((running.root / "store/tenants/local/jobs").glob("*/manifest.json"))

    proof = running.stub.DeleteAdapter(pb.DeleteAdapterRequest(name=name), timeout=10).proof
    assert proof.num_objects == 3, "weights, hashes of training images, manifest"
    code, message, _ = refusal(
        lambda: running.stub.GetAdapter(pb.GetAdapterRequest(name=name), timeout=10)
    )
    assert code == grpc.StatusCode.NOT_FOUND and name in message


def test_a_key_used_for_another_request_is_refused(running: Running, dataset: str) -> None:
    first = running.create_adapter(dataset, "same key", num_steps=2)
    code, _, _ = refusal(lambda: running.create_adapter(dataset, "same key", num_steps=3))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    running.watch(first.name)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"rank": 0}, grpc.StatusCode.INVALID_ARGUMENT, "settings.rank"),
        ({"rank": 1000}, grpc.StatusCode.INVALID_ARGUMENT, "settings.rank"),
        ({"alpha": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "settings.alpha"),
        ({"num_steps": -5}, grpc.StatusCode.INVALID_ARGUMENT, "settings.num_steps"),
        ({"num_steps": 10**9}, grpc.StatusCode.INVALID_ARGUMENT, "settings.num_steps"),
        ({"batch_size": 0}, grpc.StatusCode.INVALID_ARGUMENT, "settings.batch_size"),
        (
            {"learning_rate": float("inf")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "settings.learning_rate",
        ),
        ({"seed": -1}, grpc.StatusCode.INVALID_ARGUMENT, "settings.seed"),
        ({"preset": "turbo"}, grpc.StatusCode.INVALID_ARGUMENT, "settings.preset"),
        ({"base": "no-such-base"}, grpc.StatusCode.INVALID_ARGUMENT, "base"),
        ({"base": "../../etc"}, grpc.StatusCode.INVALID_ARGUMENT, "base"),
        ({"dataset": "datasets/nothing"}, grpc.StatusCode.NOT_FOUND, ""),
        ({"dataset": "adapters/x"}, grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
        ({"dataset": ""}, grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
        ({"key": "k" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "idempotency_key"),
    ],
)
def test_a_bad_request_is_refused_before_there_is_a_job(
    running: Running, dataset: str, change: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    def count() -> int:
        return len(running.stub.ListJobs(pb.ListJobsRequest(), timeout=10).jobs)

    before = count()
    values = {"dataset": dataset, **change}
    found, message, named = refusal(lambda: running.create_adapter(**values))
    assert (found, named) == (code, field), message
    assert count() == before


def test_a_base_that_saw_test_images_is_refused(running: Running, dataset: str) -> None:
    manifest = running.store.get_manifest("local", "datasets", dataset.split("/")[1])
    locked = manifest["body"]["classes"]["basophil"]["test"]
    fakes.write_tiny_base(running.root / "models", "informed", digests=locked)
    code, message, _ = refusal(lambda: running.create_adapter(dataset, base="informed"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "2 of the 4 locked test images" in message and "phantoms" in message


def test_cancel_ends_a_job_within_a_step(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, num_steps=100_000)
    wait_for_step(running, job.name, 2)
    asked = time.monotonic()
    running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10)
    ended = running.watch(job.name)[-1]
    assert ended.state == job_pb2.JOB_STATE_CANCELLED and not ended.result
    assert time.monotonic() - asked < 10
    again = running.stub.CancelJob(pb.CancelJobRequest(name=job.name), timeout=10).job
    assert again.state == job_pb2.JOB_STATE_CANCELLED
    listed = running.stub.ListJobs(
        pb.ListJobsRequest(state=job_pb2.JOB_STATE_CANCELLED), timeout=10
    ).jobs
    assert job.name in {each.name for each in listed}


def wait_for_step(running: Running, name: str, step: int) -> None:
    for answer in running.stub.WatchJob(pb.WatchJobRequest(name=name), timeout=600):
        assert answer.job.state not in FINAL, answer.job
        if answer.job.progress.phase == "training adapter" and answer.job.progress.step >= step:
            return
    raise AssertionError("the job never trained")


def first_step(seen: list[job_pb2.Job], attempt: int) -> int:
    """The first training step that an attempt has told of."""
    return min(
        job.progress.step
        for job in seen
        if job.num_attempts == attempt and job.progress.phase == "training adapter"
    )


def runner_process() -> psutil.Process:
    found = replica_processes("JobRunner") or [
        process
        for process in psutil.Process().children(recursive=True)
        if "JobRunner" in " ".join(process.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]


def test_a_killed_runner_continues_to_the_same_weights(running: Running, dataset: str) -> None:
    def weights(job: job_pb2.Job) -> bytes:
        id = job.result.split("/")[1]
        return running.store.read("local", "adapters", id, f"shared/{lora.WEIGHTS_FILE}")

    whole = running.watch(running.create_adapter(dataset, num_steps=40, seed=5).name)[-1]
    assert whole.state == job_pb2.JOB_STATE_SUCCEEDED, whole.error
    job = running.create_adapter(dataset, num_steps=40, seed=5)
    wait_for_step(running, job.name, 5)
    process = runner_process()
    process.send_signal(signal.SIGKILL)
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert seen[-1].num_attempts == 2
    assert first_step(seen, attempt=2) >= 4, "it must continue from its checkpoint"
    assert weights(seen[-1]) == weights(whole)
    adapters = running.stub.ListAdapters(pb.ListAdaptersRequest(), timeout=10).adapters
    assert [each.name for each in adapters].count(seen[-1].result) == 1


def test_a_host_that_is_about_to_end_gives_its_job_back(
    running: Running, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running.create_adapter(dataset, num_steps=60, seed=15)
    wait_for_step(running, job.name, 5)
    monkeypatch.setenv("CYTOSYNTH_DATABASE_URL", f"sqlite:///{running.root}/jobs.db")
    monkeypatch.setenv("CYTOSYNTH_DRAIN_FILE", str(running.root / "drain"))
    assert drain_jobs.main(["--this-host"]) == 0
    left = running.stub.GetJob(pb.GetJobRequest(name=job.name), timeout=10).job
    assert (left.state, left.num_attempts) == (job_pb2.JOB_STATE_PENDING, 1)
    runner_process().send_signal(signal.SIGKILL)  # the next one was started after the drain
    seen = running.watch(job.name)
    assert seen[-1].state == job_pb2.JOB_STATE_SUCCEEDED, seen[-1].error
    assert seen[-1].num_attempts == 2
    assert first_step(seen, attempt=2) >= left.progress.step, "no step may be done twice"


def test_a_killed_front_loses_no_job(running: Running, dataset: str) -> None:
    job = running.create_adapter(dataset, num_steps=40, seed=6)
    [front] = replica_processes("Trainer")
    front.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            found = running.stub.GetJob(pb.GetJobRequest(name=job.name), timeout=5).job
        except grpc.RpcError:
            time.sleep(0.5)
            continue
        if found.state in FINAL:
            break
        time.sleep(0.5)
    assert found.state == job_pb2.JOB_STATE_SUCCEEDED
    assert found.num_attempts == 1, "the runner must not notice that the front died"


def test_an_idle_runner_gives_its_memory_back_and_the_next_job_starts_one(
    running: Running, dataset: str
) -> None:
    running.watch(running.create_adapter(dataset, num_steps=1).name)
    first = runner_process()
    first.wait(timeout=120)
    ended = running.watch(running.create_adapter(dataset, num_steps=1, seed=9).name)[-1]
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, ended.error
    assert runner_process().pid != first.pid


def test_unknown_jobs_and_reports_are_not_found(running: Running) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: running.stub.GetJob(pb.GetJobRequest(name="jobs/none"), timeout=10),
        lambda: running.stub.CancelJob(pb.CancelJobRequest(name="jobs/none"), timeout=10),
        lambda: list(running.stub.WatchJob(pb.WatchJobRequest(name="jobs/none"), timeout=10)),
        lambda: list(
            running.stub.DownloadReport(pb.DownloadReportRequest(name="reports/none"), timeout=10)
        ),
        lambda: running.stub.GetClassifier(
            pb.GetClassifierRequest(name="classifiers/none"), timeout=10
        ),
    ]
    for call in calls:
        code, message, _ = refusal(call)
        assert code == grpc.StatusCode.NOT_FOUND and "none" in message
    code, _, field = refusal(
        lambda: running.stub.GetJob(pb.GetJobRequest(name="a job"), timeout=10)
    )
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


def test_a_study_is_a_job_whose_result_is_a_report(running: Running, dataset: str) -> None:
    fakes.write_tiny_clip(running.root / "models")
    settings: dict[str, Any] = {"models": ["resnet18"], "arms": ["real_only"], "shots": 2}
    settings |= {"num_draws": 2, "num_steps": 2, "num_per_class": [1]}
    request = pb.CreateStudyRequest(
        dataset=dataset, settings=pb.StudySettings(**settings), idempotency_key="a study"
    )
    job = running.stub.CreateStudy(request, timeout=30).job
    assert running.stub.CreateStudy(request, timeout=30).job.name == job.name
    states = running.watch(job.name)
    assert states[-1].state == job_pb2.JOB_STATE_SUCCEEDED, states[-1].error.message
    assert any("draw 2 of 2: resnet18, real_only" in each.progress.phase for each in states)
    name = states[-1].result
    files: dict[str, bytes] = {}
    for part in running.stub.DownloadReport(pb.DownloadReportRequest(name=name), timeout=30):
        files[part.file_name] = files.get(part.file_name, b"") + part.chunk
    assert set(files) == {"report.json", "report.html", "metrics.csv"}
    report = json.loads(files["report.json"])
    assert [draw["images_of"] for draw in report["draws"]] == [dataset] * 2
    assert report["arms"]["resnet18"]["real_only"]["num_draws"] == 2
    assert not list((running.root / "store/tenants/local/jobs").iterdir()), "no work is left"

    request.settings.num_per_class[:] = [5, 3]
    request.idempotency_key = "another"
    code, _, field = refusal(lambda: running.stub.CreateStudy(request, timeout=30))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "settings.num_per_class")
