"""The load generator against a toy server of the classifier's proto."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from benchmarks.classifier.figures import OpenCalls
from benchmarks.classifier.load.loops import arrivals
from benchmarks.classifier.load.plans import OK, RESOURCE_EXHAUSTED, Phase, Plan, Target
from benchmarks.classifier.load.process import LoadFailed, ask, closed, open_loop
from cytosynth.classifier.v1 import classifier_pb2 as pb
from cytosynth.classifier.v1 import classifier_pb2_grpc as pb_grpc

CELL = b"cell" * 7_000
ODD_CELL = b"refuse" * 4_000


class Toy(pb_grpc.ClassifierServiceServicer):
    """Answers every cell but one kind, which it refuses."""

    def Classify(self, request: pb.ClassifyRequest, context) -> pb.ClassifyResponse:
        assert request.model == "classifiers/toy"
        if request.images[0] == ODD_CELL:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "come back later")
        assert request.images[0] == CELL
        classification = pb.Classification(class_id="b")
        for class_id, probability in (("b", 0.75), ("a", 0.25)):
            classification.probabilities.add(class_id=class_id, probability=probability)
        return pb.ClassifyResponse(classifications=[classification])


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_ClassifierServiceServicer_to_server(Toy(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Target("grpc", f"127.0.0.1:{port}", model="classifiers/toy")
    server.stop(None)


@pytest.fixture
def cells(tmp_path: Path) -> str:
    (tmp_path / "0.png").write_bytes(CELL)
    return str(tmp_path)


def test_asking_once_gives_probabilities_by_class(target: Target, cells: str) -> None:
    assert ask(Plan("ask", target, cells)) == [0.25, 0.75]


@pytest.mark.parametrize("mode", ["closed", "lean"])
def test_callers_of_a_closed_loop_are_answered(target: Target, cells: str, mode) -> None:
    plan = Plan(mode, target, cells, callers=4, warmup_seconds=0.1, seconds=0.5)
    result = closed(plan)
    assert result.num_answered > 10
    assert len(result.latencies_ms) > 10
    assert result.num_failed == {}
    assert result.cpu_seconds > 0


def test_an_open_loop_tells_accepted_from_refused(target: Target, cells: str) -> None:
    (Path(cells) / "1.png").write_bytes(ODD_CELL)
    phases = (Phase("slow", 40.0, 0.5), Phase("fast", 80.0, 0.5))
    result = open_loop(Plan("open", target, cells, phases=phases, connections=2))
    accepted, refused = result.status.count(OK), result.status.count(RESOURCE_EXHAUSTED)
    assert accepted + refused == len(result.status) == len(arrivals(phases, 0))
    assert abs(accepted - refused) <= 1
    assert len(result.cpu_seconds) == 2
    assert OpenCalls(result).counts(0.0, 1.0)["failed"] == 0


def test_a_server_that_is_not_there_is_an_error_that_says_so(cells: str) -> None:
    nobody = Target("grpc", "127.0.0.1:9")
    with pytest.raises(LoadFailed, match="UNAVAILABLE"):
        ask(Plan("ask", nobody, cells, timeout_seconds=5.0))


def test_arrivals_have_the_rate_of_their_phase() -> None:
    due = arrivals((Phase("a", 1_000.0, 2.0), Phase("b", 100.0, 2.0)), seed=1)
    assert due == sorted(due)
    assert sum(at < 2.0 for at in due) == pytest.approx(2_000, rel=0.1)
    assert sum(at >= 2.0 for at in due) == pytest.approx(200, rel=0.3)


def test_a_plan_survives_json() -> None:
    plan = Plan("open", Target("http", "http://127.0.0.1:1/", headers={"a": "b"}), "cells")
    assert Plan.from_dict(plan.to_dict()) == plan
