"""Class ids from folder and table names; hints on unknown classes."""

from __future__ import annotations

import pytest

from cytosynth.cell_classes import (
    CELL_CLASSES,
    is_known_class,
    resolve_class_id,
    similar_class,
    suggest_class_id,
)


@pytest.mark.parametrize("cell", CELL_CLASSES.values(), ids=lambda cell: cell.class_id)
def test_ids_codes_and_phrases_name_the_class_in_any_spelling(cell) -> None:
    for name in (cell.class_id, cell.munich_code, cell.phrase):
        for written in (name, name.upper(), name.title(), name.replace("_", " "), f" {name} "):
            assert resolve_class_id(written) == cell.class_id
        assert resolve_class_id(f"{name.replace(' ', '-')}s") == cell.class_id


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("Band neutrophil", "neutrophil_band"),
        ("neutrophil (band)", "neutrophil_band"),
        ("NeutrophilBand", "neutrophil_band"),
        ("Neutrophils, segmented", "neutrophil_segmented"),
        ("neutrophils", "neutrophil"),
        ("Lymphocyte (typical)", "lymphocyte"),
        ("Lymphocyte (atypical)", "lymphocyte_atypical"),
        ("Promyelocyte (bilobled)", "promyelocyte_bilobed"),
        ("smudge", "smudge_cell"),
        ("myo", "myeloblast"),
        ("blast", "blast"),
        ("Blast Cells", "blast_cells"),
        ("Plasma-cell", "plasma_cell"),
        ("4blast", ""),
        ("Zellen-Ö", ""),
        ("basophil-ü", ""),
        ("_", ""),
        ("", ""),
    ],
)
def test_display_names_are_understood(name: str, class_id: str) -> None:
    assert resolve_class_id(name) == class_id


def test_what_the_bases_know_is_known_and_the_rest_gets_a_hint() -> None:
    assert is_known_class("neutrophil") and is_known_class("myeloblast")
    assert not is_known_class("blast")
    assert [similar_class(each) for each in ("baso", "basophill", "blast", "plasma_cell")] == [
        "basophil",
        "basophil",
        "",
        "",
    ]
    assert suggest_class_id("4blast") == "class_4blast"
    assert suggest_class_id("Zellen-Ö") == "zellen_o"
