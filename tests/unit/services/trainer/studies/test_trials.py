"""Each arm trains on its own images, from its own weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from services.common.errors import InvalidArgument
from services.common.store.artifacts import ArtifactStore
from services.trainer.studies import job as study
from services.trainer.studies import trials
from tests.support import fakes
from tests.support.few_shot import CLASSES, TENANT, FakeGenerator, job_context
from tests.support.studies import begin, read_report


def test_further_real_images_neither_train_nor_test(
    settings: Any, store: ArtifactStore, trained: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    really = trials.load_members

    def note(*args: Any) -> Any:
        found = really(*args)
        read.append(set(found.digests))
        return found

    monkeypatch.setattr(trials, "load_members", note)
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


def test_classifiers_start_from_other_cells_in_two_arms_and_from_scratch_in_the_others(
    settings: Any, store: ArtifactStore, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_tiny_resnet(settings.models_dir)
    fakes.write_tiny_clip(settings.models_dir, "other-clip", seed=1)
    bases = {"transfer_resnet_base": "tiny-resnet", "transfer_clip_base": "other-clip"}
    started: set[tuple[str, int]] = set()
    really = trials.train_and_test

    def note(model: Any, hparams: Any, config: Any, real: Any, synthetic: Any, *rest: Any) -> Any:
        started.add((hparams.resnet_base or hparams.clip_base, bool(synthetic)))
        return really(model, hparams, config, real, synthetic, *rest)

    monkeypatch.setattr(trials, "train_and_test", note)
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
