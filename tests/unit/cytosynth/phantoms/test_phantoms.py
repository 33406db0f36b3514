"""Deterministic phantoms, whose ground truth matches pictures and separates classes."""

import csv

import numpy as np
import pytest
from PIL import Image

from cytosynth.phantoms import (
    CELL_TYPES,
    DEMO_HOSPITAL,
    REFERENCE,
    render_phantom,
    sample_laboratory,
    write_image_folder,
)
from cytosynth.phantoms.laboratory import (
    BASOPHILIC_HUE_RANGE,
    EOSINOPHILIC_HUE_RANGE,
    NUCLEAR_HUE_RANGE,
)

MUNICH_CLASSES = {
    "basophil",
    "erythroblast",
    "eosinophil",
    "smudge_cell",
    "lymphocyte_atypical",
    "lymphocyte",
    "metamyelocyte",
    "monoblast",
    "monocyte",
    "myelocyte",
    "myeloblast",
    "neutrophil_band",
    "neutrophil_segmented",
    "promyelocyte_bilobed",
    "promyelocyte",
}


def median_attribute(cell_class: str, attribute: str, count: int = 15) -> float:
    values = [
        render_phantom(cell_class, REFERENCE, s, 32).attributes[attribute] for s in range(count)
    ]
    return float(np.median(values))


def test_all_fifteen_munich_classes_exist():
    assert set(CELL_TYPES) == MUNICH_CLASSES


def test_rendering_is_deterministic_and_the_seed_matters():
    first, again, other = (render_phantom("monocyte", REFERENCE, seed) for seed in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.nucleus_mask, again.nucleus_mask)
    assert first.attributes == again.attributes
    assert not np.array_equal(first.image, other.image)


def test_same_cell_in_another_laboratory_is_the_same_cell_with_other_colours():
    reference = render_phantom("neutrophil_segmented", REFERENCE, 3).attributes
    demo = render_phantom("neutrophil_segmented", DEMO_HOSPITAL, 3).attributes
    assert demo["lobes"] == reference["lobes"]
    assert demo["nc_ratio"] == pytest.approx(reference["nc_ratio"], abs=0.03)
    assert demo["laboratory"] == "demo_hospital"


@pytest.mark.parametrize("size_px", [32, 64, 128])
@pytest.mark.parametrize("cell_class", sorted(MUNICH_CLASSES))
def test_every_class_renders_in_range_with_consistent_masks(cell_class, size_px):
    phantom = render_phantom(cell_class, REFERENCE, 11, size_px)
    assert phantom.image.shape == (size_px, size_px, 3)
    assert phantom.image.dtype == np.uint8
    assert phantom.image.std() > 10
    assert not (phantom.nucleus_mask & ~phantom.cell_mask).any()
    cell_area, nucleus_area = phantom.cell_mask.sum(), phantom.nucleus_mask.sum()
    assert nucleus_area / cell_area == pytest.approx(phantom.attributes["nc_ratio"], abs=0.05)
    diameter = 2 * np.sqrt(cell_area / np.pi)
    assert diameter == pytest.approx(phantom.attributes["cell_diameter_px"], rel=0.05)
    assert 0.35 * size_px < diameter < 0.92 * size_px


def test_nc_ratio_follows_the_cell_type():
    for cell_class in sorted(MUNICH_CLASSES - {"smudge_cell"}):
        low, high = CELL_TYPES[cell_class].nc_ratio
        assert low - 0.05 < median_attribute(cell_class, "nc_ratio", 5) < high + 0.05, cell_class


def test_nucleus_is_darker_than_background():
    for cell_class in sorted(MUNICH_CLASSES):
        phantom = render_phantom(cell_class, REFERENCE, 5)
        brightness = phantom.image.mean(axis=2)
        corner_level = np.percentile(brightness, 95)
        assert brightness[phantom.nucleus_mask].mean() < corner_level - 40, cell_class


def test_classes_differ_where_a_haematologist_looks():
    diameter = {
        name: median_attribute(name, "cell_diameter_px")
        for name in (
            "promyelocyte",
            "lymphocyte",
            "erythroblast",
            "monoblast",
            "myeloblast",
            "monocyte",
        )
    }
    assert diameter["promyelocyte"] > 1.2 * diameter["lymphocyte"]
    assert diameter["monoblast"] > 1.1 * diameter["myeloblast"]
    assert diameter["monocyte"] > diameter["lymphocyte"]
    assert (
        median_attribute("myeloblast", "nc_ratio") > median_attribute("myelocyte", "nc_ratio") + 0.1
    )
    assert (
        median_attribute("promyelocyte", "nc_ratio")
        > median_attribute("neutrophil_band", "nc_ratio") + 0.15
    )
    assert median_attribute("neutrophil_segmented", "lobes") >= 3
    assert median_attribute("neutrophil_band", "lobes") == 1
    assert median_attribute("promyelocyte_bilobed", "lobes") == 2
    assert median_attribute("promyelocyte", "granule_count") > 3 * median_attribute(
        "monoblast", "granule_count"
    )
    assert median_attribute("lymphocyte", "granule_count") == 0
    assert (
        median_attribute("myeloblast", "nucleoli") >= 1 > median_attribute("myelocyte", "nucleoli")
    )


def test_size_does_not_change_the_scene():
    large = render_phantom("eosinophil", REFERENCE, 2, 128).image.astype(float)
    small = render_phantom("eosinophil", REFERENCE, 2, 64).image.astype(float)
    shrunk = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 8


def test_unknown_class_is_named_and_known_ones_are_listed():
    with pytest.raises(ValueError, match=r"'thrombocyte'.*basophil.*smudge_cell"):
        render_phantom("thrombocyte", REFERENCE, 0)


def test_bad_seed_and_size_are_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        render_phantom("monocyte", REFERENCE, -1)
    with pytest.raises(ValueError, match="size_px=8"):
        render_phantom("monocyte", REFERENCE, 0, 8)


def test_demo_hospital_lies_outside_what_is_sampled():
    for stain, (low, high) in (
        (DEMO_HOSPITAL.nuclear_stain, NUCLEAR_HUE_RANGE),
        (DEMO_HOSPITAL.basophilic_stain, BASOPHILIC_HUE_RANGE),
        (DEMO_HOSPITAL.eosinophilic_stain, EOSINOPHILIC_HUE_RANGE),
    ):
        assert stain.hue_deg < low - 10 or stain.hue_deg > high + 10
    assert DEMO_HOSPITAL.background_rgb[1] > DEMO_HOSPITAL.background_rgb[0] + 10
    for seed in range(200):
        laboratory = sample_laboratory(np.random.default_rng(seed))
        assert NUCLEAR_HUE_RANGE[0] <= laboratory.nuclear_stain.hue_deg <= NUCLEAR_HUE_RANGE[1]
        assert (
            BASOPHILIC_HUE_RANGE[0]
            <= laboratory.basophilic_stain.hue_deg
            <= BASOPHILIC_HUE_RANGE[1]
        )
        assert (
            EOSINOPHILIC_HUE_RANGE[0]
            <= laboratory.eosinophilic_stain.hue_deg
            <= EOSINOPHILIC_HUE_RANGE[1]
        )
        assert laboratory.background_rgb[1] <= laboratory.background_rgb[0] + 2


def test_image_folder_holds_the_images_and_the_labels(tmp_path):
    write_image_folder(
        tmp_path / "a", REFERENCE, {"monocyte": 10, "basophil": 6}, seed=1, size_px=32
    )
    write_image_folder(
        tmp_path / "b", REFERENCE, {"monocyte": 10, "basophil": 6}, seed=1, size_px=32
    )
    assert b"\r" not in (tmp_path / "a" / "labels.csv").read_bytes()
    with (tmp_path / "a" / "labels.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["file", "class", "patient_id"]
    assert len(rows) == 16
    assert len({row["patient_id"] for row in rows}) == 2
    for row in rows:
        assert row["file"].startswith(row["class"] + "/")
        with Image.open(tmp_path / "a" / row["file"]) as image:
            assert image.size == (32, 32)
        assert (tmp_path / "a" / row["file"]).read_bytes() == (
            tmp_path / "b" / row["file"]
        ).read_bytes()
    assert (tmp_path / "a" / "monocyte" / "0001.png").exists()


def test_image_folder_refuses_an_unknown_class_before_writing(tmp_path):
    with pytest.raises(ValueError, match="thrombocyte"):
        write_image_folder(tmp_path / "x", REFERENCE, {"thrombocyte": 1}, seed=0, size_px=32)
    assert not (tmp_path / "x").exists()
