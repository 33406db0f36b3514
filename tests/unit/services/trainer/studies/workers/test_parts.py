"""The starting order of a study's parts, which keeps cores busy."""

from __future__ import annotations

from services.trainer.studies.recipe import Trial
from services.trainer.studies.workers.parts import (
    MeasuresPart,
    SyntheticImagesPart,
    TrialPart,
    replicate_parts,
)

REAL = Trial(1, "resnet18", "real_only", 0)
MIXED = Trial(1, "resnet18", "real_plus_synthetic", 200)


def test_the_adapter_comes_first_and_only_what_needs_its_images_waits() -> None:
    parts = replicate_parts(1, [MIXED, REAL], synthesizes=True)
    images, real, mixed, measures = parts
    assert isinstance(images, SyntheticImagesPart) and isinstance(measures, MeasuresPart)
    assert (real, mixed) == (TrialPart(REAL), TrialPart(MIXED, (images.name,)))
    assert measures.after == (images.name,)
    assert len({part.name for part in parts}) == 4 and {part.replicate for part in parts} == {1}
    assert mixed.label == "resnet18, real_plus_synthetic 200"


def test_without_synthetic_arms_there_is_nothing_to_generate_or_measure() -> None:
    assert replicate_parts(1, [REAL], synthesizes=False) == [TrialPart(REAL)]
