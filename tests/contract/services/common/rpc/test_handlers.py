"""Domain errors at a plain gRPC client of a real Serve replica."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

REPOSITORY = Path(__file__).parents[5]
# Ray's defaults starve on a busy machine: workers at niceness 15, 10 s for its agents.
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_niceness": str(os.getpriority(os.PRIO_PROCESS, 0)),
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
LEAK = re.compile(r"Traceback|File \"|\.py|/srv|10\.0\.0\.1|pid=|ray::|RuntimeError|secret")


def start_app(ports: list[str], folder: str) -> subprocess.Popen[bytes]:
    """Start the app, again if Ray gave up.

    Ray gives up after 30 s on a busy machine.
    """
    log = Path(folder) / "app.log"
    for _ in range(3):
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.servers.status_app", *ports, folder],
                cwd=REPOSITORY,
                env={**os.environ, **RAY_SETTINGS, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while process.poll() is None:
            if "\nready\n" in log.read_text():
                return process
            time.sleep(0.2)
    return pytest.fail(f"the app did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[str, Path]]:
    """The address of the running app and the folder of its marks."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    with tempfile.TemporaryDirectory(prefix="cs-", ignore_cleanup_errors=True) as folder:
        process = start_app(ports, folder)
        assert process.stdin is not None
        try:
            yield f"127.0.0.1:{ports[0]}", Path(folder)
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def channel(app: tuple[str, Path]) -> Iterator[grpc.Channel]:
    """A channel with no special settings."""
    with grpc.insecure_channel(app[0]) as channel:
        yield channel


@pytest.fixture
def marks(app: tuple[str, Path]) -> Path:
    """The folder where handlers leave marks of what they cleaned up."""
    return app[1]


def rich_status(error: grpc.RpcError) -> status_pb2.Status:
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    return status


def detail(error: grpc.RpcError, kind: type[Message]) -> Message:
    for packed in rich_status(error).details:
        unpacked = kind()
        if packed.Unpack(unpacked):
            return unpacked
    raise AssertionError(f"no {kind.__name__} in {rich_status(error)}")


def classify(channel: grpc.Channel, model: str, timeout: float = 120, **headers: str):
    stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
    request = classifier_pb2.ClassifyRequest(model=model)
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return stub.Classify(request, timeout=timeout, metadata=metadata)


def watch(channel: grpc.Channel, name: str):
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    return stub.WatchJob(trainer_pb2.WatchJobRequest(name=name), timeout=120)


def upload(channel: grpc.Channel, messages) -> trainer_pb2.UploadDatasetResponse:
    return trainer_pb2_grpc.TrainerServiceStub(channel).UploadDataset(messages, timeout=120)


def appears(path: Path, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_unary_error_has_code_and_details(channel):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "invalid", x_request_id="req-7")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "model: is wrong; send another"
    bad = detail(caught.value, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("model", "is wrong")]
    assert detail(caught.value, error_details_pb2.ErrorInfo).domain == "cytosynth"
    assert detail(caught.value, error_details_pb2.RequestInfo).request_id == "req-7"


def test_identity_comes_from_the_header_and_is_checked(channel):
    answer = classify(channel, "fine", x_cytosynth_tenant="lab-a", x_request_id="r1")
    assert answer.model == "lab-a r1"
    assert classify(channel, "fine").model.startswith("local ")
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "fine", x_cytosynth_tenant="../other")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_error_of_an_inner_replica_keeps_its_details(channel):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "inner-busy")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToSeconds() == 1


def test_lost_inner_replica_is_unavailable(channel):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "inner-dead")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not LEAK.search(caught.value.details())


@pytest.mark.parametrize("how", ["bug", "inner-bug"])
def test_unknown_failure_tells_only_the_request_id(channel, how):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, how, x_request_id="req-42")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error, request id req-42"
    assert not LEAK.search(str(caught.value.trailing_metadata()))


def test_endless_message_still_arrives(channel):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "long")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, error_details_pb2.BadRequest).field_violations


@pytest.mark.parametrize("num_before", [0, 1, 200])
@pytest.mark.parametrize(
    ("how", "code"),
    [("missing", grpc.StatusCode.NOT_FOUND), ("bug", grpc.StatusCode.INTERNAL)],
)
def test_server_stream_ends_with_details_and_loses_no_message(channel, num_before, how, code):
    steps = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in watch(channel, f"{how}:{num_before}"):
            steps.append(answer.job.progress.step)
    assert steps == list(range(num_before))
    assert caught.value.code() is code
    assert detail(caught.value, error_details_pb2.ErrorInfo).reason == code.name
    assert not LEAK.search(str(caught.value.trailing_metadata()))


def test_good_stream_ends_well(channel):
    call = watch(channel, "fine:20")
    assert [answer.job.progress.step for answer in call] == list(range(20))
    assert call.code() is grpc.StatusCode.OK


def test_upload_error_arrives_while_the_client_still_sends(channel):
    def messages():
        for number in range(1000):
            part = trainer_pb2.UploadDatasetRequest()
            part.header.display_name = "invalid" if number == 3 else ""
            yield part

    with pytest.raises(grpc.RpcError) as caught:
        upload(channel, messages())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, error_details_pb2.BadRequest).field_violations


def test_whole_upload_is_answered(channel):
    last = trainer_pb2.UploadDatasetRequest(commit=trainer_pb2.DatasetCommit())
    header = trainer_pb2.UploadDatasetRequest(header=trainer_pb2.DatasetHeader())
    assert upload(channel, iter([header, header, last])).dataset.display_name == "3"


def test_upload_without_its_last_message_is_refused(channel, marks):
    header = trainer_pb2.UploadDatasetRequest(header=trainer_pb2.DatasetHeader())
    with pytest.raises(grpc.RpcError) as caught:
        upload(channel, iter([header] * 5))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert appears(marks / "upload-cut-5")


def test_upload_cut_by_the_client_is_cleaned_up(app, marks):
    def messages():
        for _ in range(7):
            yield trainer_pb2.UploadDatasetRequest(header=trainer_pb2.DatasetHeader())
        time.sleep(3)

    with grpc.insecure_channel(app[0]) as channel:
        call = trainer_pb2_grpc.TrainerServiceStub(channel).UploadDataset.future(messages())
        time.sleep(1)
        call.cancel()
    assert appears(marks / "upload-cut-7")


def test_bidi_stream_answers_then_fails_with_details(channel):
    requests = [classifier_pb2.ClassifyStreamRequest(model=m) for m in ("a", "b", "invalid", "c")]
    stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
    answers = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in stub.ClassifyStream(iter(requests), timeout=120):
            answers.append(answer.model)
    assert answers == ["a", "b"]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(caught.value, error_details_pb2.BadRequest).field_violations


def test_cancelled_stream_is_cleaned_up(channel, marks):
    mark = marks / "stream-cleaned-sleep"
    for _ in range(20):  # each meets the proxy elsewhere: at rest, or sending the second message
        mark.unlink(missing_ok=True)
        call = watch(channel, "sleep:2")
        assert next(call).job.progress.step == 0
        call.cancel()
        assert appears(mark)


def test_cancelled_stream_that_nobody_reads_is_cleaned_up(channel, marks):
    call = watch(channel, "large:1000")
    assert next(call).job.progress.step == 0
    time.sleep(0.5)
    assert not (marks / "stream-cleaned-large").exists()
    call.cancel()
    assert appears(marks / "stream-cleaned-large")


def test_passed_deadline_cleans_up(channel, marks):
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, "sleep", timeout=1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert appears(marks / "unary-cleaned")


def test_disconnected_client_is_cleaned_up(app, marks):
    (marks / "bidi-cleaned").unlink(missing_ok=True)

    def requests():
        yield classifier_pb2.ClassifyStreamRequest(model="a")
        time.sleep(3)

    with grpc.insecure_channel(app[0]) as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        assert next(iter(stub.ClassifyStream(requests()))).model == "a"
    assert appears(marks / "bidi-cleaned")


@pytest.mark.parametrize("num_before", [0, 3])
def test_lost_front_replica_is_unavailable_and_comes_back(channel, num_before):
    steps = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in watch(channel, f"dead:{num_before}"):
            steps.append(answer.job.progress.step)
    assert steps == list(range(len(steps)))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == ("the replica that worked on this request was lost; try again")
    assert not LEAK.search(str(caught.value.trailing_metadata()))
    assert detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToSeconds() == 1
    assert classify(channel, "fine").model
