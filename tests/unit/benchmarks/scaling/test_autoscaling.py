"""Completeness, order and near-linearity of many simulated replicas; the page of costs."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import cost
from benchmarks.scaling.autoscaling import Request, autoscaled, consume, fixed_fleet, main, scaling
from benchmarks.scaling.fake_fleet import FakeFleet, FakeSampler
from benchmarks.scaling.virtual_clock import run_virtual
from services.common.errors import DataLoss
from services.generator.autoscale import AutoscaleSettings
from services.generator.presets import PRESETS
from services.generator.shards import Shard

SAMPLER = FakeSampler(batch_size=16, num_steps=50, batch_seconds=4.0, start_up_seconds=30.0)
REQUEST = Request(num_images=64 * 640, shard_num_images=32)


def test_64_replicas_are_nearly_64_times_as_fast_as_one() -> None:
    rows = scaling(REQUEST, SAMPLER, [1, 8, 64])
    assert [row.efficiency for row in rows] == sorted((r.efficiency for r in rows), reverse=True)
    assert rows[-1].efficiency >= cost.FLEET_EFFICIENCY >= 0.9
    assert rows[0].images_per_second == pytest.approx(4.0, rel=0.02)


def test_an_image_that_is_missing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = FakeFleet.draw

    async def drop_one(fleet: FakeFleet, shard: Shard):  # type: ignore[no-untyped-def]
        async for batch in draw(fleet, shard):
            yield [image for image in batch if image.index != 70]

    monkeypatch.setattr(FakeFleet, "draw", drop_one)
    with pytest.raises(DataLoss):
        fixed_fleet(Request(128), SAMPLER, 2)


def test_autoscaling_meets_its_target_from_zero_and_goes_back_to_zero() -> None:
    settings = AutoscaleSettings(
        max_replicas=64,
        target_seconds=200.0,
        evaluations_per_second=SAMPLER.evaluations_per_second,
        downscale_delay_seconds=20.0,
    )
    result = autoscaled(Request(8000, 32), SAMPLER, settings)
    assert result.most_replicas == 10  # 8000 images at 4 a second and replica, in 200 s
    # The first replica and the rest start one after the other, which Serve wants so.
    assert 60.0 <= result.most_ready_seconds <= 75.0
    assert result.seconds <= 60.0 + 200.0 + 20.0
    assert result.until_zero_seconds <= 3 * 20.0 + 10.0
    assert result.work_hours < result.replica_hours < 1.5 * result.work_hours


def test_replicas_that_hoard_shards_keep_the_others_idle() -> None:
    # Why SamplerReplica must not take as many shards at once as Serve would give it.
    settings = AutoscaleSettings(
        max_replicas=16, target_seconds=200.0, evaluations_per_second=400.0
    )
    request = Request(8000)
    few = autoscaled(request, SAMPLER, settings)
    many = autoscaled(request, replace(SAMPLER, max_ongoing=64), settings)
    assert many.seconds > 1.5 * few.seconds


def test_replicas_that_stop_lose_no_image(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> tuple[float, float]:
        fleet = FakeFleet(replace(SAMPLER, jitter=0.0))
        fleet.add_ready(4)
        asyncio.get_running_loop().call_later(9.0, fleet.scale, 1)
        return await consume(Request(640), fleet, 4)

    with caplog.at_level("WARNING"):
        first, seconds = run_virtual(work())
    assert "sampler lost at image" in caplog.text
    # 40 batches of 4 s: 4 replicas for the first 2 or 3 each, then one.
    assert first == 4.0 and 4.0 * (40 - 9) <= seconds <= 4.0 * (40 - 6)


def test_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--images", "640", "--batch-seconds", "4", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["autoscaling", *arguments])
    main()
    figures = json.loads((tmp_path / "autoscaling.json").read_text())
    assert [row["replicas"] for row in figures["scaling"]] == [1, 2, 4, 8, 16, 32, 64]
    # 640 images at 4 a second are 160 s of work: one replica does them in 600 s.
    assert figures["autoscaled"][0]["most_replicas"] == 1
    assert figures["autoscaled"][0]["work_hours"] == pytest.approx(160 / 3600)


def test_the_clock_jumps_and_notices_a_deadlock() -> None:
    async def nap() -> float:
        await asyncio.gather(asyncio.sleep(3600.0), asyncio.sleep(1800.0))
        return asyncio.get_running_loop().time()

    async def forever() -> None:
        await asyncio.Event().wait()

    started = time.monotonic()
    assert run_virtual(nap()) == pytest.approx(3600.0)
    assert time.monotonic() - started < 5.0
    with pytest.raises(RuntimeError, match="no timer"):
        run_virtual(forever())


def test_cost_by_hand() -> None:
    # 100 evaluations of 0.80 and a decode of 2.5 are 82.5 TFLOP.
    paper = PRESETS["paper"]
    assert cost.tflop_per_image(paper) == pytest.approx(82.5)
    assert cost.tflop_per_image(replace(paper, guidance_scale=1.0)) == pytest.approx(42.5)
    assert cost.assumed_images_per_second(paper) == pytest.approx(0.34 * 989 / 82.5)
    assert cost.gpu_hours(3600, 1.0, efficiency=0.8) == pytest.approx(1.25)


def test_the_page_holds_exactly_what_the_formula_gives() -> None:
    page = cost.PAGE.read_text()
    assert cost.extrapolated_table() in page
    assert cost.refreshed(page) == page


def test_measured_runs_go_into_the_page_and_stay(tmp_path: Path) -> None:
    run = {"hardware": "CPU", "base": "b", "preset": "fast", "images_per_second": 2.0, "x": 1}
    path = tmp_path / "generator.json"
    path.write_text(json.dumps({"runs": [run]}))
    page = cost.refreshed(cost.PAGE.read_text(), cost.read_runs(path))
    # 75,000 / 2 / 3600 s
    assert "| CPU | b | fast | 2.00 | 10.4 | 1,388.9 |" in page
    assert cost.refreshed(page) == page
