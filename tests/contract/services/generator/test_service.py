"""The generator's contract, over a channel to the real Serve app."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cytosynth.common.v1 import image_pb2
from cytosynth.generator.v1 import generator_pb2 as pb
from tests.support.generator_app import (
    BATCH,
    CLASSES,
    ONE,
    Running,
    ask,
    pixels,
    sampler,
    series_of,
    small_batches,
)

pytestmark = pytest.mark.timeout(700)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with small_batches(tmp_path_factory.mktemp("generator")) as running:
        yield running


def test_images_come_in_order_with_all_they_need(running: Running) -> None:
    responses = running.images(ask(("monocyte", 6), ("basophil", 5), seed=7))
    assert [r.index for r in responses] == list(range(11))
    assert [r.class_id for r in responses] == ["monocyte"] * 6 + ["basophil"] * 5
    assert len({r.image_seed for r in responses}) == 11
    assert {(r.width, r.height) for r in responses} == {(32, 32)}
    assert all(r.image_format == image_pb2.IMAGE_FORMAT_PNG for r in responses)
    assert len({r.image for r in responses}) == 11
    assert [bool(r.manifest_json) for r in responses] == [True] + [False] * 10
    manifest = json.loads(responses[0].manifest_json)
    digest = hashlib.sha256(responses[0].manifest_json.encode()).hexdigest()
    assert {r.manifest_digest for r in responses} == {digest}
    assert (manifest["base"], manifest["base_revision"]) == ("tiny", running.base_revision)
    assert manifest["sampler"] == {
        "guidance_scale": 2.0,
        "guidance_start": 0.0,
        "guidance_stop": 0.8,
        "num_steps": 3,
        "scheduler": "unipc",
    }


def test_decoder_is_the_request_s_choice(running: Running) -> None:
    counts = (("monocyte", 3),)
    [full, tiny] = [
        running.images(ask(*counts, sampler=sampler(num_steps=3, decoder=decoder)))
        for decoder in ("", "tiny")
    ]
    assert [r.image_seed for r in full] == [r.image_seed for r in tiny]
    assert all((pixels(a) != pixels(b)).any() for a, b in zip(full, tiny, strict=True))
    manifest = json.loads(tiny[0].manifest_json)
    assert manifest["sampler"]["decoder"] == "tiny" and len(manifest["decoder_revision"]) == 64
    assert "decoder" not in json.loads(full[0].manifest_json)["sampler"]


@pytest.mark.parametrize(
    ("preset", "settings", "revision"),
    [
        (
            "draft",
            {"accelerated": True, "guidance_scale": 1.0, "num_steps": 2, "scheduler": "ddim"},
            "accelerator_revision",
        ),
        (
            "fast",
            {
                "guidance_scale": 2.0,
                "guidance_start": 0.0,
                "guidance_stop": 0.5,
                "num_steps": 4,
                "scheduler": "bespoke",
            },
            "solver_revision",
        ),
    ],
)
def test_few_steps_resume_and_mix_with_others(
    running: Running, preset: str, settings: dict[str, Any], revision: str
) -> None:
    counts = (("monocyte", 5), ("basophil", 6))
    draft = ask(*counts, seed=3, adapter="adapters/mixed", sampler=sampler(preset=preset))
    whole = running.images(draft)
    manifest = json.loads(whole[0].manifest_json)
    assert manifest["sampler"] == settings
    assert len(manifest[revision]) == 64
    assert len({r.image for r in whole}) == 11
    draft.first_index = 4
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(running.images, ask(*counts, seed=3, adapter="adapters/mixed"))
        rest = running.images(draft)
    assert [r.image for r in rest] == [r.image for r in whole[4:]]
    assert [r.image for r in other.result()] == [
        r.image for r in running.images(ask(*counts, seed=3, adapter="adapters/mixed"))
    ]


def test_work_is_counted_per_tenant(running: Running) -> None:
    running.images(ask(("monocyte", 7), sampler=sampler(preset="fast")), tenant="counted")
    wanted = {
        "images_total": 7,
        "unet_evaluations_total": 7 * 6,
        "adapter_hits_total": 7,
        "first_image_seconds_count": 2,  # shards of 4
        "queue_evaluations": 0,
    }
    found: dict[str, float] = {}
    until = time.monotonic() + 60  # Ray reports every few seconds
    while found != wanted and time.monotonic() < until:
        time.sleep(1)
        found = {name: v for name, v in series_of("counted").items() if name in wanted}
    assert found == wanted


@pytest.mark.parametrize("adapter", ["", "adapters/mixed", "adapters/split"])
def test_resumed_stream_repeats_nothing_and_changes_nothing(running: Running, adapter: str) -> None:
    counts = (("monocyte", 5), ("basophil", 6))
    whole = running.images(ask(*counts, seed=3, adapter=adapter))
    for first in (1, 6, 10):
        rest = running.images(ask(*counts, seed=3, adapter=adapter, first_index=first))
        assert [(r.index, r.image_seed, r.image) for r in rest] == [
            (r.index, r.image_seed, r.image) for r in whole[first:]
        ]
        assert rest[0].manifest_digest == whole[0].manifest_digest
        assert rest[0].manifest_json == whole[0].manifest_json


def test_adapters_draw_differently_and_leave_the_base_alone(running: Running) -> None:
    def draw(adapter: str) -> list[bytes]:
        request = ask(("monocyte", 1), ("basophil", 1), adapter=adapter)
        return [r.image for r in running.images(request)]

    names = ["", "adapters/mixed", "adapters/split"]
    first = [draw(name) for name in names]
    assert len({image for pair in first for image in pair}) == 6
    assert [draw(name) for name in reversed(names)] == first[::-1]


def test_formats_hold_the_same_picture(running: Running) -> None:
    drawn = {
        name: running.images(ask(("monocyte", 1), image_format=code))[0]
        for name, code in image_pb2.ImageFormat.items()
        if code
    }
    png = pixels(drawn["IMAGE_FORMAT_PNG"])
    np.testing.assert_array_equal(png, pixels(drawn["IMAGE_FORMAT_WEBP"]))
    jpeg = pixels(drawn["IMAGE_FORMAT_JPEG"]).astype(int)
    assert 0 < np.abs(jpeg - png).mean() < 8


def test_capabilities(running: Running) -> None:
    answer = running.stub.GetCapabilities(pb.GetCapabilitiesRequest(), timeout=30)
    assert list(answer.bases) == ["other", "tiny"]
    assert answer.default_base == "tiny"
    assert dict(answer.image_size) == {"other": 32, "tiny": 32}
    assert answer.batch_size == 2 * BATCH
    assert set(answer.presets) == {"draft", "fast", "balanced", "paper"}
    assert answer.presets["paper"].num_steps == 50
    assert answer.presets["draft"].num_steps == 2  # those of the base's accelerator


@pytest.mark.parametrize(
    ("request_", "field", "hint"),
    [
        (ask(), "class_counts", "1 to 100"),
        (ask(*[(f"c{i}", 1) for i in range(101)]), "class_counts", "1 to 100"),
        (ask(ONE, ("Bad Class!", 1)), "class_counts[1].class_id", "a-z"),
        (ask(("", 1)), "class_counts[0].class_id", "empty"),
        (ask(("unicorn", 1)), "class_counts[0].class_id", "basophil, monocyte, myeloblast"),
        (ask(ONE, ("basophil", 0)), "class_counts[1].num_images", "1 to 100000"),
        (ask(("monocyte", -5)), "class_counts[0].num_images", "1 to 100000"),
        (ask(("monocyte", 10**9)), "class_counts[0].num_images", "1 to 100000"),
        (ask(*[(c, 90_000) for c in CLASSES]), "class_counts", "several requests"),
        (ask(ONE, ONE), "class_counts[1].class_id", "once"),
        (ask(ONE, seed=-1), "seed", "2^63"),
        (ask(ONE, first_index=1), "first_index", "0 to 0"),
        (ask(ONE, first_index=-1), "first_index", "0 to 0"),
        (ask(ONE, base="nope"), "base", "other, tiny"),
        (ask(ONE, base="../tiny"), "base", "other, tiny"),
        (ask(ONE, adapter="mixed"), "adapter", "adapters/"),
        (ask(ONE, adapter="datasets/x"), "adapter", "adapters/"),
        (ask(ONE, adapter="adapters/../x"), "adapter", "adapters/"),
        (ask(ONE, adapter="adapters/mixed", base="other"), "adapter", "'tiny'"),
        (ask(ONE, adapter="adapters/foreign", base="tiny"), "adapter", "'other'"),
        (ask(("myeloblast", 1), adapter="adapters/split"), "class_counts[0].class_id", "basophil"),
        (
            ask(ONE, sampler=sampler(preset="ultra")),
            "sampler.preset",
            "draft, fast, balanced, paper",
        ),
        (ask(ONE, sampler=sampler(scheduler="euler")), "sampler.scheduler", "dpmpp_2m"),
        (ask(ONE, sampler=sampler(num_steps=0)), "sampler.num_steps", "1 to 1000"),
        (ask(ONE, sampler=sampler(num_steps=10**6)), "sampler.num_steps", "1 to 1000"),
        (ask(ONE, sampler=sampler(guidance_scale=math.nan)), "sampler.guidance_scale", "0 to 30"),
        (ask(ONE, sampler=sampler(guidance_scale=math.inf)), "sampler.guidance_scale", "0 to 30"),
        (ask(ONE, sampler=sampler(guidance_scale=-1)), "sampler.guidance_scale", "0 to 30"),
        (ask(ONE, sampler=sampler(decoder="huge")), "sampler.decoder", "full, tiny"),
        (ask(ONE, base="other", sampler=sampler(decoder="tiny")), "sampler.decoder", "send full"),
        (ask(ONE, image_format=77), "image_format", "PNG"),
        (ask(ONE, priority=77), "priority", "BULK"),
        (ask(("monocyte", 17), priority=pb.PRIORITY_INTERACTIVE), "priority", "at most 16"),
        (ask(ONE, sampler=sampler(guidance_start=-0.1)), "sampler.guidance_start", "0 to 1"),
        (ask(ONE, sampler=sampler(guidance_stop=math.nan)), "sampler.guidance_stop", "0 to 1"),
        (
            ask(ONE, sampler=sampler(guidance_start=0.9, guidance_stop=0.5)),
            "sampler.guidance_start",
            "at most guidance_stop",
        ),
    ],
)
def test_bad_field_is_named_with_its_remedy(
    running: Running, request_: pb.SynthesizeRequest, field: str, hint: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.images(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert hint in caught.value.details()
    assert "Traceback" not in caught.value.details()
    status = rpc_status.from_call(caught.value)
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in status.details)
    assert [violation.field for violation in bad_request.field_violations] == [field]


@pytest.mark.parametrize(
    ("adapter", "tenant", "code"),
    [
        ("adapters/absent", "", grpc.StatusCode.NOT_FOUND),
        ("adapters/mixed", "neighbour", grpc.StatusCode.NOT_FOUND),
        ("adapters/outdated", "", grpc.StatusCode.FAILED_PRECONDITION),
        ("adapters/copying", "", grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_adapter_that_cannot_be_used(
    running: Running, adapter: str, tenant: str, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.images(ask(ONE, adapter=adapter), tenant)
    assert caught.value.code() is code
    assert adapter in caught.value.details()
