"""The generator's streams: cancelled, slow, side by side, after a kill."""

from __future__ import annotations

import signal
import statistics
import threading
from collections.abc import Iterator

import grpc
import pytest

from cytosynth.generator.v1 import generator_pb2 as pb
from tests.support.generator_app import (
    ONE,
    Running,
    ask,
    cpu_seconds,
    seconds_of,
    small_batches,
    swallow,
    wait_until,
)
from tests.support.servers.local_serve import replica_processes

pytestmark = pytest.mark.timeout(700)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with small_batches(tmp_path_factory.mktemp("generator")) as running:
        yield running


def test_cancelled_stream_stops_the_work(running: Running) -> None:
    [replica] = replica_processes("SamplerReplica")
    request = ask(("monocyte", 100_000), sampler=pb.SamplerSettings(num_steps=20))
    stream = running.stub.Synthesize(request, timeout=120)
    assert next(stream).index == 0
    busy = cpu_seconds(replica, 1.0)
    stream.cancel()
    wait_until(lambda: cpu_seconds(replica, 0.5) < 0.1 * busy + 0.05, seconds=10)
    assert running.images(ask(ONE))[0].index == 0


def test_deadline_stops_the_work(running: Running) -> None:
    [replica] = replica_processes("SamplerReplica")
    with pytest.raises(grpc.RpcError) as caught:
        list(running.stub.Synthesize(ask(("monocyte", 100_000)), timeout=2))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: cpu_seconds(replica, 0.5) < 0.1, seconds=10)


def test_two_streams_take_turns(running: Running) -> None:
    long = running.stub.Synthesize(
        ask(("monocyte", 100_000), sampler=pb.SamplerSettings(num_steps=20)), timeout=120
    )
    assert next(long).index == 0
    assert len(running.images(ask(("basophil", 6)))) == 6
    assert next(long).index == 1
    long.cancel()


def test_reader_that_stops_stops_the_work(running: Running) -> None:
    [replica] = replica_processes("SamplerReplica")
    stream = running.stub.Synthesize(ask(("monocyte", 20_000)), timeout=300)
    assert next(stream).index == 0
    before = replica.memory_info().rss
    wait_until(lambda: cpu_seconds(replica, 1.0) < 0.1, seconds=120)
    assert replica.memory_info().rss < before + 64 * 2**20
    assert [next(stream).index for _ in range(500)] == list(range(1, 501))
    wait_until(lambda: cpu_seconds(replica, 1.0) < 0.1, seconds=120)
    stream.cancel()


def test_bulk_gives_way_to_interactive_requests(running: Running) -> None:
    slow = pb.SamplerSettings(num_steps=40)
    quiet = seconds_of(lambda: running.images(ask(ONE, sampler=slow)))
    bulk = running.stub.Synthesize(ask(("monocyte", 100_000), sampler=slow), timeout=300)
    next(bulk)
    drain = threading.Thread(target=lambda: [None for _ in swallow(bulk)])
    drain.start()
    loaded = statistics.median(
        seconds_of(lambda: running.images(ask(ONE, sampler=slow, seed=5))) for _ in range(5)
    )
    bulk.cancel()
    drain.join()
    # Its steps are those of full batches then: dearer each, but none is waited for.
    assert loaded < 4 * quiet + 1


def test_killed_replica_costs_nothing_but_time(running: Running) -> None:
    request = ask(("monocyte", 12), ("basophil", 12), seed=5, adapter="adapters/split")
    expected = running.images(request)
    slow = pb.SynthesizeRequest()
    slow.CopyFrom(request)
    slow.sampler.num_steps = 30
    calm = running.images(slow)
    assert calm[0].image != expected[0].image
    stream = running.stub.Synthesize(slow, timeout=600)
    seen = [next(stream)]
    [replica] = replica_processes("SamplerReplica")
    replica.send_signal(signal.SIGKILL)
    seen += list(stream)
    assert [(r.index, r.image) for r in seen] == [(r.index, r.image) for r in calm]
    assert replica_processes("SamplerReplica")[0].pid != replica.pid
    assert [r.image for r in running.images(request)] == [r.image for r in expected]
