"""One trace through client, edge, services, a job and its generator calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cytosynth import traces
from cytosynth.client import (
    AdapterSettings,
    ClassifierSettings,
    Client,
    CytosynthError,
    SamplerSettings,
    SplitSettings,
    SynthesisSettings,
    SyntheticSettings,
)
from cytosynth.phantoms.hospital import write_image_folder
from cytosynth.phantoms.laboratory import DEMO_HOSPITAL
from cytosynth.stack import stack as local_stack
from cytosynth.stack.state import StackFiles
from services.common.database.jobs import JobDatabase
from tests.support.servers.collector import Collector, SentSpan, collecting

GENERATOR = "cytosynth.generator.v1.GeneratorService"
CLASSES = ("basophil", "monocyte")
QUICK = SamplerSettings(num_steps=2)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def stack(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[local_stack.StackInfo]:
    state_dir = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYTOSYNTH_TRACES_ENDPOINT", collector.address)
        patch.setenv("CYTOSYNTH_RUNNER_NUM_THREADS", "1")
        patch.setattr(traces, "_provider", None)
        traces.start(collector.address, "client")
        info = local_stack.up(0, state_dir=state_dir, timeout_seconds=400)
        try:
            yield info
        finally:
            local_stack.down(state_dir)


@pytest.fixture
def client(stack: local_stack.StackInfo) -> Iterator[Client]:
    with Client(stack.address) as client:
        yield client


def _access_log(
    stack: local_stack.StackInfo, request_id: str, methods: set[str]
) -> list[tuple[str, str]]:
    """Listener and method of a request's lines, once all ``methods`` are there."""
    deadline = time.monotonic() + 30  # Envoy writes its log every ten seconds
    while True:
        lines = StackFiles(stack.state_dir).access_log.read_text().splitlines()
        found = [line for line in map(json.loads, lines) if line["request_id"] == request_id]
        told = [(line["listener"], line["method"].rpartition("/")[2]) for line in found]
        if methods <= {method for _, method in told}:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.5)


def _logs(stack: local_stack.StackInfo) -> str:
    folder = StackFiles(stack.state_dir).ray
    return "\n".join(path.read_text(errors="replace") for path in folder.glob("**/*.err"))


def test_a_generator_call_is_one_trace(
    client: Client, collector: Collector, stack: local_stack.StackInfo
) -> None:
    assert len(list(client.synthesize({"monocyte": 2}, SynthesisSettings(sampler=QUICK)))) == 2
    [drawn] = collector.wait_for(lambda span: span.name == "render shard")
    collector.wait_for(lambda span: span.part == "client" and span.name.endswith("/Synthesize"))
    collector.wait_for(lambda span: span.part == "edge" and span.trace_id == drawn.trace_id)
    collector.wait_for(lambda span: span.part == "generator" and span.trace_id == drawn.trace_id)
    assert collector.line_of(drawn) == [
        ("client", f"{GENERATOR}/Synthesize"),
        ("edge", f"/{GENERATOR}/Synthesize"),
        ("generator", "Generator/Synthesize"),
        ("sampler", "render shard"),
    ]
    of_trace = [span for span in collector.spans if span.trace_id == drawn.trace_id]
    [request_id] = {span.attributes["cytosynth.request_id"] for span in of_trace}
    assert _access_log(stack, request_id, {"Synthesize"}) == [("edge", "Synthesize")]
    assert not any(span.is_error for span in of_trace)


def test_a_refused_call_is_an_error_of_the_client_and_has_the_request_id(
    client: Client, collector: Collector
) -> None:
    with pytest.raises(CytosynthError) as refused:
        client.get_dataset("datasets/none-such")
    assert refused.value.request_id
    ours = {"client", "edge", "trainer"}

    def of_call(span: SentSpan) -> bool:
        return span.attributes.get("cytosynth.request_id") == refused.value.request_id

    spans = {span.part: span for span in collector.wait_for(of_call, len(ours))}
    assert set(spans) == ours
    assert spans["client"].is_error and spans["client"].attributes["error.type"] == "NOT_FOUND"
    assert not spans["trainer"].is_error, "the service did what it should"
    assert not any("none-such" in str(span.attributes) for span in spans.values())


def test_a_job_and_the_generator_calls_that_it_makes_are_in_the_trace_of_its_request(
    client: Client, collector: Collector, stack: local_stack.StackInfo, tmp_path: Path
) -> None:
    write_image_folder(tmp_path / "cells", DEMO_HOSPITAL, dict.fromkeys(CLASSES, 8), seed=3)
    dataset = client.upload_dataset(tmp_path / "cells", split=SplitSettings(shots=4))
    job = client.fit_adapter(dataset.name, AdapterSettings(num_steps=2, batch_size=2))
    adapter = job.wait().result
    synthetic = SyntheticSettings(adapter=adapter, num_per_class=2, sampler=QUICK)
    settings = ClassifierSettings(architecture="resnet18", num_steps=2)
    handle = client.fit_classifier(dataset.name, settings, synthetic=synthetic)
    assert handle.wait().state == "SUCCEEDED"

    def is_job(span: SentSpan) -> bool:
        return span.attributes.get("cytosynth.job") == handle.name

    [job] = collector.wait_for(is_job)
    asking = [("client", "CreateClassifier"), ("edge", "CreateClassifier")]
    asking += [("trainer", "CreateClassifier"), ("job-runner", "job fit_classifier")]

    def short(line: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(part, name.rpartition("/")[2]) for part, name in line]

    assert short(collector.line_of(job)) == asking
    drawn = collector.wait_for(
        lambda span: span.name == "render shard" and span.trace_id == job.trace_id
    )
    of_call = [(part, "Synthesize") for part in ("job-runner", "edge", "generator")]
    for shard in drawn:
        assert short(collector.line_of(shard)) == [*asking, *of_call, ("sampler", "render shard")]

    [stored] = [
        each
        for each in JobDatabase(f"sqlite:///{stack.state_dir}/jobs.db").list("local")
        if each.name == handle.name
    ]
    calls = _access_log(stack, stored.request_id, {"CreateClassifier", "Synthesize"})
    assert set(calls) == {("edge", "CreateClassifier"), ("internal", "Synthesize")}
    lines = [json.loads(line) for line in _logs(stack).splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("request_id") == stored.request_id]
    assert any("begins, attempt 1" in line["message"] for line in about)
    assert {line["trace_id"] for line in about} == {job.trace_id}


def test_spans_tell_neither_tenants_nor_names_of_images(collector: Collector) -> None:
    told = {key for span in collector.spans for key in span.attributes}
    assert not {key for key in told if "tenant" in key}
    assert not any(".png" in str(span.attributes) for span in collector.spans)
