"""A study without repeated work, tested on real images only, with findings."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

import numpy as np
import pytest

from services.common.errors import Cancelled, FailedPrecondition
from services.common.store.artifacts import ArtifactStore
from services.trainer.studies import job as study
from services.trainer.studies import replicate
from tests.support import fakes
from tests.support.few_shot import CLASSES, TENANT, FakeGenerator, job_context
from tests.support.studies import begin, comparable, forget_synthesis, read_report


def test_every_arm_of_every_replicate_is_trained_once_and_compared(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, trained: Counter[Any]
) -> None:
    spec = begin(store, settings)
    report = study.run(spec, job_context(store, settings))
    # Per draw and model: real alone (twice, as no class is smaller than another); with 2, 4
    # synthetic and 4 phantoms a class; 2 and 4 alone.
    wanted = {"9+0": 2, "9+6": 1, "9+12": 2, "6+0": 1, "12+0": 1}
    assert trained == {
        (model, seed, sizes): count
        for model in ("resnet18", "clip")
        for seed in (0, 1)
        for sizes, count in wanted.items()
    }
    assert generator.num_drawn == 2 * 4 * 3, "one set of images a draw serves all its arms"
    content = read_report(store, report)
    arms = {"real_only", "real_plus_synthetic_2", "real_plus_synthetic_4", "synthetic_only_2"}
    arms |= {"synthetic_only_4", "real_plus_phantoms_4", "balanced"}
    assert set(content["arms"]["resnet18"]) == arms
    assert set(content["arms"]["clip"]) == arms | {"zero_shot"}
    headline = content["paired_difference"]
    assert set(headline) == {"resnet", "clip"}
    for model, family in (("resnet18", "resnet"), ("clip", "clip")):
        for metric in ("macro_f1", "balanced_accuracy", "top1", "macro_auc"):
            found = headline[family][metric]
            with_, without = (
                content["arms"][model][arm][metric]
                for arm in ("real_plus_synthetic_4", "real_only")
            )
            assert found["mean"] == pytest.approx(with_ - without)
            assert found["low"] <= found["mean"] <= found["high"]
    figures = content["arms"]["clip"]["real_only"]
    assert content["paired_difference_transfer"] == {}
    assert figures["num_tested"] == [15, 15] and figures["macro_f1"] == pytest.approx(
        np.mean(figures["per_draw_macro_f1"])
    )
    first, second = content["draws"]
    assert first["split_digest"] != second["split_digest"]
    assert first["num_train"] == dict.fromkeys(CLASSES, 3)
    assert [draw["seed"] for draw in content["draws"]] == [0, 1]
    assert first["adapter_files"] != second["adapter_files"] and first["image_set"]
    manifest = store.get_manifest(TENANT, "reports", report)
    assert spec["dataset"] in manifest["parents"] and len(manifest["digests"]) >= 9


def test_quality_and_privacy_of_every_replicate_are_measured_and_shown(
    settings: Any, store: ArtifactStore, generator: FakeGenerator
) -> None:
    some = {"models": ["resnet18"], "arms": ["real_only", "synthetic_only"], "num_per_class": [4]}
    report = study.run(begin(store, settings, **some), job_context(store, settings))
    content = read_report(store, report)
    quality, privacy = content["quality"], content["privacy"]
    assert content["recipes"]["resnet18"]["enough_real"] == 8
    assert quality["num_draws"] == 2 and quality["feature_space"]["name"] == "tiny-clip"
    assert quality["overall"]["n_real"] == quality["overall"]["n_synthetic"] == [12, 12]
    assert set(quality["per_class"]) == set(CLASSES)
    # The fake generator draws discs as those that were uploaded: as near as real to real.
    kid = quality["overall"]["kid"]
    assert kid["interval"][0] < kid["mean"] < kid["interval"][1] and abs(kid["mean"]) < 0.05
    assert [each["num_members"] for each in privacy["membership_inference"]["per_draw"]] == [9, 9]
    assert 0 <= privacy["membership_inference"]["mean"] <= 1
    assert set(privacy["nearest"]["classes"]) == set(CLASSES)
    page = store.read(TENANT, "reports", report, "report.html").decode()
    assert "Image quality" in page and "Membership-inference AUC" in page
    assert "count in full beside up to 8 real images of it" in page
    num_pictures = page.count("data:image/png;base64,")
    rows = csv.DictReader(
        io.StringIO(store.read(TENANT, "reports", report, "metrics.csv").decode())
    )
    found = {(row["model"], row["arm"], row["metric"]): row["value"] for row in rows}
    assert float(found["tiny-clip", "synthetic", "kid"]) == kid["mean"]
    assert found["", "privacy", "near_copies:num_released"] == "0"
    text = store.read(TENANT, "reports", report, "nearest.csv").decode()
    each = list(csv.DictReader(io.StringIO(text)))
    drawn = [(draw["image_set"], c, str(n)) for draw in content["draws"] for c in CLASSES
             for n in range(draw["num_synthetic"] // len(CLASSES))]  # fmt: skip
    assert [(row["image_set"], row["class_id"], row["number"]) for row in each] == drawn
    trained_on = set(store.get_manifest(TENANT, "reports", report)["digests"])
    for row in each:
        assert {row["nearest_by_features"], row["nearest_by_hash"]} <= trained_on
        assert float(row["distance"]) >= 0 and 0 <= int(row["bits"]) <= 64
    hidden = study.run(
        begin(store, settings, hide_images=True, **some), job_context(store, settings, "job-2")
    )
    page = store.read(TENANT, "reports", hidden, "report.html").decode()
    assert num_pictures >= 12 and "data:image" not in page


def test_without_synthetic_images_there_is_nothing_to_measure(
    settings: Any, store: ArtifactStore
) -> None:
    some = {"models": ["resnet18"], "arms": ["real_only", "real_plus_phantoms"], "num_draws": 1}
    report = study.run(begin(store, settings, **some), job_context(store, settings))
    content = read_report(store, report)
    assert content["quality"] is None and content["privacy"] is None
    assert "Image quality" not in store.read(TENANT, "reports", report, "report.html").decode()


def test_a_base_that_changed_since_the_request_stops_the_study(
    settings: Any, store: ArtifactStore, trained: Counter[Any]
) -> None:
    spec = begin(store, settings, models=["clip"], arms=["real_only"])
    fakes.write_tiny_clip(settings.models_dir, seed=9)
    with pytest.raises(FailedPrecondition, match="changed since the request") as caught:
        study.run(spec, job_context(store, settings))
    assert caught.value.subject == "CLIP base tiny-clip" and not trained


def test_its_page_and_its_table_hold_the_figures(
    settings: Any, store: ArtifactStore, generator: FakeGenerator
) -> None:
    report = study.run(begin(store, settings, models=["clip"]), job_context(store, settings))
    content = read_report(store, report)
    page = store.read(TENANT, "reports", report, "report.html").decode()
    shown = f"{100 * content['arms']['clip']['real_only']['macro_f1']:.1f}"
    assert shown in page and "Research use only" in page and "real + synthetic 4" in page
    assert "http" not in page.replace("http-equiv", ""), "it fetches nothing"
    text = store.read(TENANT, "reports", report, "metrics.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    [row] = [
        row
        for row in rows
        if (row["arm"], row["metric"]) == ("real_plus_synthetic_4", "difference:macro_f1")
    ]
    assert float(row["value"]) == content["paired_difference"]["clip"]["macro_f1"]["mean"]


def test_a_class_that_only_some_replicates_can_test_is_left_out_of_all(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    trained: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really, num_missing = replicate.usable_classes, 1
    monkeypatch.setattr(
        replicate,
        "usable_classes",
        lambda manifest: really(manifest)[num_missing if manifest["seed"] == 1 else 0 :],
    )
    some = {"models": ["resnet18"], "arms": ["real_only", "real_plus_synthetic", "balanced"]}
    spec = begin(store, settings, num_per_class=[2], **some)
    content = read_report(store, study.run(spec, job_context(store, settings)))
    assert content["arms"]["resnet18"]["real_only"]["class_ids"] == ["lymphocyte", "monocyte"]
    assert content["arms"]["resnet18"]["real_only"]["num_tested"] == [10, 10]
    assert trained["resnet18", 0, "6+4"] == 1 and trained["resnet18", 1, "6+0"] == 2
    assert [draw["left_out"] for draw in content["draws"]] == [["eosinophil"], []]
    page = store.read(TENANT, "reports", "job-1", "report.html").decode()
    assert "Left out: eosinophil, which" in page
    num_missing, trained_before = 2, trained.total()
    with pytest.raises(FailedPrecondition, match="every replicate can train and test 1 class"):
        study.run(spec | {"title": "another"}, job_context(store, settings, "job-2"))
    assert trained.total() == trained_before


@pytest.mark.parametrize("job_id", ["job-1", ""])
def test_killed_anywhere_it_ends_with_the_same_report_and_repeats_nothing(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    trained: Counter[Any],
    job_id: str,
) -> None:
    small = {
        "models": ["resnet18"],
        "num_per_class": [2],
        "arms": ["real_only", "real_plus_synthetic"],
    }
    spec = begin(store, settings, **small)
    whole = read_report(store, study.run(spec, job_context(store, settings, "undisturbed")))
    num_drawn, once = generator.num_drawn, dict(trained)
    forget_synthesis(store)
    trained.clear()
    num_kills = 0
    for steps in (3, 4, 6, 9, 14, 20, 10**9):
        left = steps

        def dying(phase: str, step: int, total: int, metrics: dict[str, float]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cancelled

        try:
            # With the same job, or with a new one after a cancel.
            job = job_id or f"job-{steps}"
            report = study.run(spec, job_context(store, settings, job, dying))
            break
        except Cancelled:
            num_kills += 1
    assert num_kills > 2
    again = read_report(store, report)
    assert comparable(again) == comparable(whole)
    assert trained.total() <= len(once) + num_kills, "only what was cut off is begun again"
    assert generator.num_drawn <= 2 * num_drawn + num_kills * 6, "a round is the smallest part"
