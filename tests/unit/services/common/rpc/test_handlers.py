"""The handler decorators, without Ray: identity, deadline, audit line, clean-up."""

import asyncio
import inspect
import json
import logging
import re
import time

import grpc
import pytest
from google.rpc import status_pb2

from cytosynth.classifier.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from services.common import errors
from services.common.logs import JsonFormatter
from services.common.rpc import handlers as status
from services.common.rpc.call_slots import CallSlots
from tests.support.servers.series import own_series


class FakeContext:
    """A stand-in for a call's context in the server."""

    def __init__(self, code=None, details="", **headers: str) -> None:
        self._code, self._details = code, details
        self._headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self._trailers: list = []
        self.begun = False

    def invocation_metadata(self):
        self.begun = True
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
            raise asyncio.CancelledError if self._cut else StopAsyncIteration
        self._left -= 1
        return ClassifyRequest()


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


def test_grpc_sees_a_handler_that_takes_a_context():
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


def test_calls_are_exported_while_they_run_and_when_they_ended(tmp_path):
    class Slow(Handlers):
        async def read(self):
            stream = self.Watch(ClassifyRequest(), FakeContext())
            await anext(stream)
            running = read()
            await stream.aclose()
            return running

    with own_series(tmp_path) as read:
        status.set_observer(*status.metrics_observer("slow"))
        try:
            running, ended = asyncio.run(Slow().read()), read()
        finally:
            status.set_observer(lambda record: None)
    labels = '{application="slow",code="CANCELLED",method="Watch",service="Slow"}'
    assert running['cytosynth_calls_in_progress{application="slow"}'] == 1
    assert ended['cytosynth_calls_in_progress{application="slow"}'] == 0
    assert ended["cytosynth_calls_total" + labels] == 1
    assert ended["cytosynth_call_seconds_count" + labels] == 1


def test_without_headers_the_tenant_is_local_and_the_id_is_new():
    handlers = Handlers()
    for _ in range(2):
        asyncio.run(handlers.Classify(ClassifyRequest(), grpc_context=FakeContext()))
    first, second = handlers.seen
    assert (first.tenant, first.deadline) == ("local", None)
    assert re.fullmatch("[0-9a-f]{32}", first.request_id) and first.request_id != second.request_id


def test_forged_request_id_is_not_taken_into_the_logs():
    context = FakeContext(x_request_id='x"\n{"level": "ERROR"}')
    assert re.fullmatch("[0-9a-f]{32}", status.request_id_of(context))


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
    handlers = Handlers()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(handlers.Upload(FakeStream(3, cut=True), grpc_context=FakeContext()))
    assert handlers.seen == []
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


def test_failed_stream_ends_with_its_status_and_details():
    context, handlers = FakeContext(), Handlers(errors.Unavailable("the sampler is away"))

    async def read_all():
        return [a async for a in handlers.Watch(ClassifyRequest(), grpc_context=context)]

    assert [answer.model for answer in asyncio.run(read_all())] == ["1"]
    assert context.code() is grpc.StatusCode.UNAVAILABLE
    assert status.DETAILS_TRAILER in dict(context.trailing_metadata())


def test_calls_of_a_server_that_ends_are_unavailable(records):
    context, handlers = FakeContext(), Handlers()

    async def interrupt():
        answers = handlers.Watch(ClassifyRequest(), grpc_context=context)

        async def read():
            return [answer async for answer in answers]

        reading = asyncio.create_task(read())
        while not context.begun:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        status.interrupt_calls()
        return await reading

    assert [answer.model for answer in asyncio.run(interrupt())] == ["1"]
    assert handlers.cleaned and context.code() is grpc.StatusCode.UNAVAILABLE
    assert [record.code for record in records] == ["UNAVAILABLE"]


def test_a_call_too_many_is_refused_before_its_handler(records):
    handlers = Handlers()
    handlers.call_slots = CallSlots(max_running=1, max_waiting=0)
    first, second = FakeContext(), FakeContext()

    async def two_calls():
        answers = handlers.Watch(ClassifyRequest(), grpc_context=first)
        await anext(answers)
        await handlers.Classify(ClassifyRequest(), grpc_context=second)
        await answers.aclose()
        await handlers.Classify(ClassifyRequest(), grpc_context=first)

    asyncio.run(two_calls())
    assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(handlers.seen) == 1, "the call after the stream's end"


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
