"""The handler decorators, without Ray: identity, deadline, audit line, clean-up."""

import asyncio
import inspect
import json
import logging
import time

import grpc
import pytest
from google.rpc import status_pb2

from cytosynth.classifier.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from services.common import errors
from services.common.logs import JsonFormatter
from services.common.rpc import handlers as status
from services.common.serve_patches.proxy_errors import tell_briefly


class FakeContext:
    """A stand-in for Serve's context in replicas and gRPC's in the proxy."""

    def __init__(self, code=None, details="", **headers: str) -> None:
        self._code, self._details = code, details
        self._headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self._trailers: list = [("request_id", "serve-1")]

    def invocation_metadata(self):
        return self._headers

    def trailing_metadata(self):
        return self._trailers

    def code(self):
        return self._code

    def details(self):
        return self._details

    def set_code(self, code):
        self._code = code

    def set_details(self, details):
        self._details = details

    def set_trailing_metadata(self, trailers):
        self._trailers = list(trailers)


class FakeStream:
    def __init__(self, count: int, cut: bool) -> None:
        self._left, self._cut = count, cut

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return ClassifyRequest()

    def is_cancelled(self) -> bool:
        return self._cut


class Handlers:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.seen, self.cleaned = error, [], False

    @status.unary(ClassifyResponse)
    async def Classify(self, request, call):
        """Its docstring."""
        self.seen.append(call)
        if self.error:
            raise self.error
        return ClassifyResponse(model="fine")

    @status.client_stream(ClassifyResponse)
    async def Upload(self, requests, call):
        self.seen = [request async for request in requests]
        return ClassifyResponse(model=str(len(self.seen)))

    @status.server_stream
    async def Watch(self, request, call):
        try:
            yield ClassifyResponse(model="1")
            if self.error:
                raise self.error
            await asyncio.sleep(60)
        finally:
            self.cleaned = True


@pytest.fixture
def records():
    seen: list[status.CallRecord] = []
    status.set_observer(seen.append)
    yield seen
    status.set_observer(lambda record: None)


def test_serve_sees_a_handler_that_takes_a_context():
    for method in (Handlers.Classify, Handlers.Upload, Handlers.Watch):
        assert "grpc_context" in inspect.signature(method).parameters
    assert inspect.iscoroutinefunction(Handlers.Classify)
    assert inspect.isasyncgenfunction(Handlers.Watch)
    assert (Handlers.Classify.__name__, Handlers.Classify.__doc__) == ("Classify", "Its docstring.")


def test_call_says_who_calls_and_until_when(records):
    handlers = Handlers()
    context = FakeContext(
        x_cytosynth_tenant="lab-a",
        x_request_id="edge-1",
        x_envoy_expected_rq_timeout_ms="5000",
    )
    answer = asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=context))
    call = handlers.seen[0]
    assert answer.model == "fine"
    assert (call.tenant, call.request_id) == ("lab-a", "edge-1")
    assert 4 < call.deadline - time.monotonic() <= 5
    assert [(r.service, r.method, r.code) for r in records] == [("Handlers", "Classify", "OK")]


def test_without_headers_the_tenant_is_local_and_the_id_is_serves():
    handlers = Handlers()
    asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=FakeContext()))
    call = handlers.seen[0]
    assert (call.tenant, call.request_id, call.deadline) == ("local", "serve-1", None)


def test_forged_request_id_is_not_taken_into_the_logs():
    context = FakeContext(x_request_id='x"\n{"level": "ERROR"}')
    assert status.request_id_of(context) == "serve-1"


def test_malformed_tenant_never_reaches_the_handler(records):
    handlers, context = Handlers(), FakeContext(x_cytosynth_tenant="../lab-b")
    asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=context))
    assert handlers.seen == []
    assert context.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record.code for record in records] == ["INVALID_ARGUMENT"]


def test_failed_unary_call_returns_and_leaves_its_status_on_the_context():
    context = FakeContext()
    handlers = Handlers(errors.NotFound("classifiers/c"))
    answer = asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=context))
    assert answer == ClassifyResponse()
    assert context.code() is grpc.StatusCode.NOT_FOUND
    told = dict(context.trailing_metadata())[status.DETAILS_TRAILER]
    assert status_pb2.Status.FromString(told).message == context.details()


def test_stream_cut_off_by_the_caller_is_not_taken_for_its_end():
    context, handlers = FakeContext(), Handlers()
    asyncio.run(handlers.Upload(FakeStream(3, cut=True), grpc_context=context))
    assert context.code() is grpc.StatusCode.CANCELLED
    context = FakeContext()
    whole = asyncio.run(handlers.Upload(FakeStream(3, cut=False), grpc_context=context))
    assert (whole.model, context.code()) == ("3", None)


def test_cancelled_stream_closes_its_handler(records):
    handlers = Handlers()

    async def read_one_then_leave():
        answers = handlers.Watch(ClassifyRequest(), grpc_context=FakeContext())
        assert (await anext(answers)).model == "1"
        with pytest.raises(asyncio.CancelledError):
            await answers.athrow(asyncio.CancelledError())

    asyncio.run(read_one_then_leave())
    assert handlers.cleaned
    assert [(record.code, record.num_messages) for record in records] == [("CANCELLED", 1)]


def test_replica_that_is_its_own_server_ends_a_stream_without_a_last_message(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_DIRECT_INGRESS", "1")
    context, handlers = FakeContext(), Handlers(errors.Unavailable("the sampler is away"))

    async def read_all():
        return [a async for a in handlers.Watch(ClassifyRequest(), grpc_context=context)]

    assert [answer.model for answer in asyncio.run(read_all())] == ["1"]
    assert context.code() is grpc.StatusCode.UNAVAILABLE


def test_audit_line_is_json_with_request_id_tenant_and_outcome(caplog):
    context = FakeContext(x_cytosynth_tenant="lab-a", x_request_id="edge-2")
    handlers = Handlers(errors.InvalidArgument("images[0]", "is empty"))
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(JsonFormatter().format(record)))

    logger, keep = logging.getLogger("cytosynth.calls"), Keep()
    logger.addHandler(keep)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=context))
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)
    assert lines[-1]["request_id"] == "edge-2"
    assert lines[-1]["tenant"] == "lab-a"
    assert (lines[-1]["method"], lines[-1]["code"]) == ("Classify", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("code", "details", "told"),
    [
        (grpc.StatusCode.INTERNAL, "The actor died unexpectedly: pid=7 ip=10.0.0.1", "UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "Traceback: KeyError /srv/x.py 10.0.0.1", "INTERNAL"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "num_queued_requests=9 pid=7", "RESOURCE_EXHAUSTED"),
        (grpc.StatusCode.UNAVAILABLE, "Deployment X at 10.0.0.1 failed", "UNAVAILABLE"),
        (grpc.StatusCode.NOT_FOUND, "Application 'generator' not found. Ping", "UNAVAILABLE"),
    ],
)
def test_failures_of_the_proxy_are_told_briefly(code, details, told):
    context = FakeContext(code, details)
    tell_briefly(context)
    assert context.code().name == told
    everything = context.details() + str(context.trailing_metadata())
    assert not any(secret in everything for secret in ("10.0.0.1", "pid", "/srv", "Traceback"))


def test_guard_leaves_our_own_failures_and_successes_alone():
    ours = FakeContext()
    asyncio.run(Handlers(errors.NotFound("a")).Classify(ClassifyRequest(), grpc_context=ours))
    fine = FakeContext(grpc.StatusCode.OK)
    for context in (ours, fine):
        before = (context.code(), context.details(), context.trailing_metadata())
        tell_briefly(context)
        assert (context.code(), context.details(), context.trailing_metadata()) == before
