"""A study repeats nothing that is finished, tests on real images only, and says what it found."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common.errors import Cancelled, FailedPrecondition, InvalidArgument
from services.common.images.codec import center_square, encode_image
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import training as train_classifier
from services.trainer.classifiers.training_images import LabelledImages
from services.trainer.datasets.resplitting import resplit, spare_digests
from services.trainer.studies import job as study
from services.trainer.studies import recipe as study_recipe
from services.trainer.studies import replicate
from services.trainer.studies.arm_images import first_of_each
from services.trainer.studies.recipe import ARMS, Cell, StudySettings, phantom_classes, recipe_of
from tests.support import fakes
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    DrawnImage,
    FakeGenerator,
    cell_image,
    job_context,
    serve_images,
    tiny_settings,
    upload_dataset,
)
from tests.support.studies import QUICK, begin, read_report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, so that sums are the same every time; small batches, short recalibration."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(train_classifier, "_BATCHNORM_BATCHES", 1)
    really = study_recipe.recipe_of

    def small(*args: Any) -> Any:
        return dataclasses.replace(really(*args), batch_size=6, synthetic_batch_size=4)

    monkeypatch.setattr(replicate, "recipe_of", small)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    return tiny_settings(tmp_path)


@pytest.fixture
def store(settings: Any) -> ArtifactStore:
    return ArtifactStore(settings.store_uri)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> FakeGenerator:
    fake = FakeGenerator()
    serve_images(monkeypatch, fake)
    return fake


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int, str]]:
    """How often each classifier was trained: architecture, seed, images."""
    counts: Counter[tuple[str, int, str]] = Counter()
    really = replicate.train_and_test

    def count(model: Any, recipe: Any, config: Any, real: Any, synthetic: Any, *rest: Any) -> Any:
        added = 0 if synthetic is None else len(synthetic.wait_for(1.0).labels)
        counts[recipe.architecture, recipe.seed, f"{len(real.labels)}+{added}"] += 1
        return really(model, recipe, config, real, synthetic, *rest)

    monkeypatch.setattr(replicate, "train_and_test", count)
    return counts


def test_every_arm_of_every_draw_is_trained_once_and_compared(
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


def test_trainings_side_by_side_give_the_same_report(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = begin(store, settings, num_per_class=[2], num_draws=2, models=["resnet18"])
    alone = read_report(store, study.run(spec, job_context(store, settings)))
    for folder in ("adapters", "imageSets"):
        for manifest in store.list(TENANT, folder):
            store.delete(TENANT, folder, manifest["name"].split("/")[1])
    running, lock, met = 0, threading.Lock(), threading.Event()
    really = replicate.train_and_test

    def count(*args: Any) -> Any:
        nonlocal running
        with lock:
            running += 1
            if running > 1:
                met.set()
        met.wait(20)  # for another to be trained at the same time
        try:
            return really(*args)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(replicate, "train_and_test", count)
    monkeypatch.setattr(study, "num_workers", lambda device: 3)
    told: list[tuple[str, int]] = []
    job = job_context(store, settings, "job-2", lambda phase, step, *_: told.append((phase, step)))
    together = read_report(store, study.run(spec, job))
    assert met.is_set()
    for content in (alone, together):
        for draw in content["draws"]:
            del draw["adapter_files"], draw["image_set"]
    assert together == alone
    assert any(phase.count(";") for phase, _ in told), "what runs side by side is told together"
    assert any("draw 1 of 2" in phase and "draw 2 of 2" in phase for phase, _ in told), (
        "a draw begins while the last classifiers of the one before are trained"
    )
    assert told[-1][0] == "computing intervals"
    steps = [step for _, step in told if step]
    assert max(steps) == 2 * 2 * 5, "two steps for each of five classifiers of two draws"


def test_only_further_real_images_always_count_in_full() -> None:
    chosen = study_recipe.PRESETS["evidence"]
    recipes = {arm: recipe_of(chosen, Cell(0, "resnet18", arm, 200)) for arm in ARMS}
    ceiling = recipes.pop("real_plus_further_real")
    assert ceiling.enough_real == 0
    assert set(recipes.values()) == {dataclasses.replace(ceiling, enough_real=8)}


def test_quality_and_privacy_of_every_draw_are_measured_and_shown(
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


def test_further_real_images_neither_train_nor_test(
    settings: Any, store: ArtifactStore, trained: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    really = replicate.load_members

    def note(*args: Any) -> Any:
        found = really(*args)
        read.append(set(found.digests))
        return found

    monkeypatch.setattr(replicate, "load_members", note)
    arms = ["real_only", "real_plus_further_real"]
    spec = begin(store, settings, models=["resnet18"], arms=arms, num_draws=1)
    content = read_report(store, study.run(spec, job_context(store, settings)))
    assert trained == {("resnet18", 0, "9+0"): 1, ("resnet18", 0, "9+12"): 1}
    assert "real_plus_further_real_4" in content["differences"]["resnet18"]
    drawn = store.get_manifest(TENANT, "datasets", content["draws"][0]["dataset"].split("/")[1])
    sides = [set(drawn["body"]["classes"][c][side]) for c in CLASSES for side in ("train", "test")]
    [further] = read
    assert len(further) == 12 and not further & set.union(*sides)

    with pytest.raises(InvalidArgument, match=r"real_plus_further_real.*lower max_test_per_class"):
        begin(store, settings, arms=arms, max_test_per_class=11)


def test_further_real_images_are_of_no_patient_who_tests_and_no_copy_of_a_test_image() -> None:
    def image(patient: str, phash: str) -> dict[str, str]:
        return {
            "class_id": "monocyte", "file_name": "", "patient_id": patient, "phash": phash
        }  # fmt: skip

    far = [f"{0xFFFF << 16 * k:016x}" for k in range(4)]
    images = {
        "a": image("trains", far[0]),
        "b": image("tests", far[1]),
        "c": image("tests", far[2]),
        "d": image("", f"{(0xFFFF << 16) ^ 1:016x}"),  # a near-duplicate of b
        "e": image("trains", far[3]),
    }
    split = {"train": ["a"], "test": ["b"], "left_out_reason": ""}
    dataset = {"body": {"images": images, "classes": {"monocyte": split}}}
    assert spare_digests(dataset) == {"monocyte": ["e"]}


def test_classifiers_start_from_other_cells_in_two_arms_and_from_scratch_in_the_others(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_tiny_resnet(settings.models_dir)
    fakes.write_tiny_clip(settings.models_dir, "other-clip", seed=1)
    bases = {"transfer_resnet_base": "tiny-resnet", "transfer_clip_base": "other-clip"}
    started: set[tuple[str, int]] = set()
    really = replicate.train_and_test

    def note(model: Any, recipe: Any, config: Any, real: Any, synthetic: Any, *rest: Any) -> Any:
        started.add((recipe.resnet_base or recipe.clip_base, bool(synthetic)))
        return really(model, recipe, config, real, synthetic, *rest)

    monkeypatch.setattr(replicate, "train_and_test", note)
    arms = ["real_only", "real_plus_synthetic", "transfer_real_only"]
    arms += ["transfer_real_plus_synthetic"]
    spec = begin(store, settings, arms=arms, num_per_class=[2], num_draws=1, **bases)
    assert set(spec["revisions"]) >= {"ResNet base tiny-resnet", "CLIP base other-clip"}
    content = read_report(store, study.run(spec, job_context(store, settings)))
    assert started == {
        (base, added)
        for base in ("", "tiny-clip", "tiny-resnet", "other-clip")
        for added in (False, True)
    }
    for model, family in (("resnet18", "resnet"), ("clip", "clip")):
        by_arm = content["arms"][model]
        assert set(by_arm) == {
            "real_only",
            "real_plus_synthetic_2",
            "transfer_real_only",
            "transfer_real_plus_synthetic_2",
        }
        gain = (
            by_arm["transfer_real_plus_synthetic_2"]["top1"] - by_arm["transfer_real_only"]["top1"]
        )
        assert content["paired_difference_transfer"][family]["top1"]["mean"] == pytest.approx(gain)
    page = store.read(TENANT, "reports", "job-1", "report.html").decode()
    assert "Starting from weights trained on other cells" in page


def test_the_balanced_arm_fills_the_small_classes_up(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, trained: Counter[Any]
) -> None:
    shots = {"eosinophil": 1, "lymphocyte": 4, "monocyte": 2}
    some = {"models": ["resnet18"], "arms": ["real_only", "balanced"], "num_draws": 1}
    study.run(begin(store, settings, class_shots=shots, **some), job_context(store, settings))
    assert trained == {("resnet18", 0, "7+0"): 1, ("resnet18", 0, "12+0"): 1}


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


@pytest.mark.parametrize(("job_id", "workers"), [("job-1", 1), ("", 2)])
def test_killed_anywhere_it_ends_with_the_same_report_and_repeats_nothing(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    trained: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
    job_id: str,
    workers: int,
) -> None:
    small = {
        "models": ["resnet18"],
        "num_per_class": [2],
        "arms": ["real_only", "real_plus_synthetic"],
    }
    spec = begin(store, settings, **small)
    whole = read_report(store, study.run(spec, job_context(store, settings, "undisturbed")))
    num_drawn, once = generator.num_drawn, dict(trained)
    for folder in ("adapters", "imageSets"):
        for manifest in store.list(TENANT, folder):
            store.delete(TENANT, folder, manifest["name"].split("/")[1])
    trained.clear()
    monkeypatch.setattr(study, "num_workers", lambda device: workers)
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
    for content in (whole, again):
        for draw in content["draws"]:
            del draw["adapter_files"], draw["image_set"]
    assert again == whole
    cut_off = workers * num_kills
    assert trained.total() <= len(once) + cut_off, "only what was cut off is begun again"
    assert generator.num_drawn <= 2 * num_drawn + num_kills * 6, "a round is the smallest part"


def test_the_base_must_be_blind_to_the_test_images(settings: Any, store: ArtifactStore) -> None:
    dataset = upload_dataset(store, settings)
    manifest = store.get_manifest(TENANT, "datasets", dataset.split("/")[1])
    images = manifest["body"]["images"]
    for name, seen in (
        ("digests", list(images)),
        ("phashes", [i["phash"] for i in images.values()]),
    ):
        fakes.write_tiny_clip(settings.models_dir, "informed", **{name: seen})
        spec = {"dataset": dataset, "settings": QUICK | {"clip_base": "informed"}}
        with pytest.raises(FailedPrecondition, match="of the 15 locked test images") as caught:
            study.validate(spec, store, TENANT, settings)
        assert caught.value.subject == "CLIP base informed"


def test_a_synthetic_image_in_the_test_set_stops_the_study(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copying(class_counts: dict[str, int], seed: int) -> Any:
        index = 0
        for class_id, count in class_counts.items():
            for number in range(count):
                data = encode_image(cell_image(class_id, number))  # what was uploaded
                yield DrawnImage(index, class_id, index, data, "d", {"base": "tiny"})
                index += 1

    monkeypatch.setattr(FakeGenerator, "__call__", lambda _, *args: copying(*args))
    spec = begin(store, settings, num_per_class=[14], models=["resnet18"])
    with pytest.raises(FailedPrecondition, match="15 of its locked test images are synthetic"):
        study.run(spec, job_context(store, settings))


def test_near_duplicates_of_training_images_are_withheld_and_counted(
    settings: Any,
    store: ArtifactStore,
    generator: FakeGenerator,
    trained: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = begin(store, settings, models=["resnet18"], num_draws=1, num_per_class=[4])
    split = StudySettings.from_dict(spec["settings"]).split(0, list(CLASSES))
    source_id = spec["dataset"].split("/")[1]
    body = resplit(store, TENANT, source_id, split, "the-same-split", settings)["body"]
    planted = body["classes"]["lymphocyte"]["train"][0]
    number = int(body["images"][planted]["file_name"].split("/")[1][:-4])
    really = FakeGenerator.__call__

    def memorising(self: FakeGenerator, class_counts: dict[str, int], seed: int) -> Any:
        for image in really(self, class_counts, seed):
            if image.class_id == "lymphocyte" and image.index % 4 in (0, 2):
                copied = center_square(cell_image("lymphocyte", number), body["center_crop"], 64)
                copied = np.ascontiguousarray(np.rot90(copied, image.index % 4))
                data = encode_image(copied)
                yield DrawnImage(image.index, image.class_id, 0, data, "d", image.manifest)
            else:
                yield image

    monkeypatch.setattr(FakeGenerator, "__call__", memorising)
    content = read_report(store, study.run(spec, job_context(store, settings)))
    [draw] = content["draws"]
    assert (draw["num_synthetic"], draw["num_withheld"]) == (12, 2)
    assert content["privacy"]["near_copies"] == {
        "num_synthetic": 12,
        "num_redrawn": 0,
        "num_withheld": 2,
        "num_used": 10,
        "num_released": 0,
    }
    compared = content["quality"]["overall"]
    assert compared["n_synthetic"] == compared["n_real"] == [10], "those withheld are left out"
    page = store.read(TENANT, "reports", "job-1", "report.html").decode()
    assert "Of 12 synthetic images 2 were near-duplicates" in page
    assert trained["resnet18", 0, "9+10"] == 1 and trained["resnet18", 0, "10+0"] == 1


def test_the_first_of_each_class_that_are_not_withheld_are_taken() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    images = np.arange(8).reshape(8, 1, 1, 1)
    ready = first_of_each(LabelledImages(images, labels), {"a": [0, 2], "b": []}, {"a": 2, "b": 2})
    assert ready.wait_for(0.1).images.ravel().tolist() == [1, 2, 3, 6]
    assert ready.wait_for(1.0).labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preset": "huge"}, "settings.preset"),
        ({"models": ["resnet18", "vgg"]}, "settings.models[1]"),
        ({"models": ["clip", "clip"]}, "settings.models"),
        ({"arms": ["real_plus_synthetic"]}, "settings.arms"),
        ({"arms": ["real_only", "magic"]}, "settings.arms[1]"),
        ({"num_per_class": [0]}, "settings.num_per_class[0]"),
        ({"num_per_class": [5001]}, "settings.num_per_class[0]"),
        ({"num_per_class": [4, 2]}, "settings.num_per_class"),
        ({"num_draws": 51}, "settings.num_draws"),
        ({"seed": -1}, "settings.seed"),
        ({"num_steps": -5}, "settings.num_steps"),
        ({"loss_weight": float("nan")}, "settings.loss_weight"),
        ({"sampler_preset": "ultra"}, "settings.sampler_preset"),
        ({"shots": -1}, "settings.shots"),
        ({"class_shots": {"monocyte": 0}}, "settings.class_shots['monocyte']"),
        ({"class_shots": {"dragon": 3}}, "settings.class_shots['dragon']"),
        ({"base": "nope"}, "settings.base"),
        ({"clip_base": "nope"}, "settings.clip_base"),
        ({"transfer_resnet_base": "nope"}, "settings.transfer_resnet_base"),
        ({"transfer_clip_base": "nope"}, "settings.transfer_clip_base"),
        ({"feature_space": "nope"}, "settings.feature_space"),
    ],
)
def test_bad_settings_are_refused_by_field(
    changes: dict[str, Any], field: str, settings: Any, store: ArtifactStore
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        begin(store, settings, **changes)
    assert caught.value.field == field and caught.value.remedy


def test_the_preset_has_few_of_the_rare_classes_that_are_there() -> None:
    evidence = StudySettings.from_spec({})
    assert evidence.split(2, ["basophil", "monocyte"]).class_shots == {"basophil": 8}
    assert evidence.split(2, ["basophil"]).seed == 2 and evidence.num_draws >= 5
    assert StudySettings.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence
    same = StudySettings.from_spec({"shots": 4})
    assert same.split(0, ["basophil", "monocyte"]).class_shots == {} and same.shots == 4
    own = StudySettings.from_spec({"class_shots": {"monocyte": 2}, "seed": 7})
    assert own.split(1, ["basophil", "monocyte"]).class_shots == {"monocyte": 2}
    assert own.split(1, []).seed == 8


def test_classes_without_a_phantom_leave_that_arm_out(settings: Any, store: ArtifactStore) -> None:
    assert phantom_classes(["neutrophil"]) == ["neutrophil_segmented"]
    assert phantom_classes(["neutrophil", "unicorn"]) == []
    assert "real_plus_phantoms" in begin(store, settings)["settings"]["arms"]
    from services.trainer.datasets.upload import DatasetHeader, DatasetUpload

    with DatasetUpload(store, TENANT, DatasetHeader(center_crop=1.0), settings) as upload:
        for number in range(12):
            class_id = ("unicorn", "monocyte")[number % 2]
            upload.add(class_id, f"{number}.png", "", encode_image(cell_image(class_id, number)))
        name = upload.commit(12)["name"]
    spec = study.validate({"dataset": name, "settings": QUICK}, store, TENANT, settings)
    assert set(spec["settings"]["arms"]) == set(QUICK["arms"]) - {"real_plus_phantoms"}


def test_a_class_that_only_some_draws_can_test_is_left_out_of_all(
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
    with pytest.raises(FailedPrecondition, match="every draw can train and test 1 class"):
        study.run(spec | {"title": "another"}, job_context(store, settings, "job-2"))
    assert trained.total() == trained_before
