"""Cell classes: the one list of names, codes and prompts.

A *class id* is a lower-case folder name (``neutrophil_band``).  The 15 ids of the
Munich AML morphology set (Matek et al., TCIA 2019, doi 10.7937/tcia.2019.36f5o9ld)
carry their three-letter code; a laboratory may use further ids of its own, whose
prompt is then written from the id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLASS_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class CellClass:
    """One class: its id, its Munich code and the words that describe it in a prompt."""

    class_id: str
    munich_code: str
    phrase: str


CELL_CLASSES: dict[str, CellClass] = {
    cell.class_id: cell
    for cell in (
        CellClass("basophil", "BAS", "basophil"),
        CellClass("erythroblast", "EBO", "erythroblast"),
        CellClass("eosinophil", "EOS", "eosinophil"),
        CellClass("smudge_cell", "KSC", "smudge cell"),
        CellClass("lymphocyte_atypical", "LYA", "atypical lymphocyte"),
        CellClass("lymphocyte", "LYT", "lymphocyte"),
        CellClass("metamyelocyte", "MMZ", "metamyelocyte"),
        CellClass("monoblast", "MOB", "monoblast"),
        CellClass("monocyte", "MON", "monocyte"),
        CellClass("myelocyte", "MYB", "myelocyte"),
        CellClass("myeloblast", "MYO", "myeloblast"),
        CellClass("neutrophil_band", "NGB", "band neutrophil"),
        CellClass("neutrophil_segmented", "NGS", "segmented neutrophil"),
        CellClass("promyelocyte_bilobed", "PMB", "bilobed promyelocyte"),
        CellClass("promyelocyte", "PMO", "promyelocyte"),
    )
}

_NARROWER = {"neutrophil": ("neutrophil_segmented", "neutrophil_band")}
"""Classes outside the list under which laboratories count several of it."""


def is_class_id(text: str) -> bool:
    """Whether ``text`` may name a class: a lower-case letter, then at most 62 of ``a-z0-9_``."""
    return _CLASS_ID.fullmatch(text) is not None


def class_phrase(class_id: str) -> str:
    """The words for a class in a prompt; ids outside the Munich list read as their own words."""
    known = CELL_CLASSES.get(class_id)
    return known.phrase if known else class_id.replace("_", " ")


def narrower_classes(class_id: str) -> tuple[str, ...]:
    """The class itself, or those of the list that a wider one stands for, the commonest first."""
    return _NARROWER.get(class_id, (class_id,))


def class_prompt(class_id: str) -> str:
    """The text prompt of a class, the same in training and in synthesis."""
    return f"a microscopic image of a single {class_phrase(class_id)}"
