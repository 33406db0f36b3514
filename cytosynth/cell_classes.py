"""Cell classes: the one table of ids, codes, names and prompts.

A *class id* is a lower-case folder name (``neutrophil_band``).  The 15 ids of the
Munich AML morphology set (Matek et al., TCIA 2019, doi 10.7937/tcia.2019.36f5o9ld)
carry their three-letter code; a laboratory may use further ids of its own, whose
prompt is then written from the id.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass

_CLASS_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _.,()/+-]*")


@dataclass(frozen=True)
class CellClass:
    """A class: id, Munich code, words for a prompt, further names."""

    class_id: str
    munich_code: str
    phrase: str
    other_names: tuple[str, ...] = ()


CELL_CLASSES: dict[str, CellClass] = {
    cell.class_id: cell
    for cell in (
        CellClass("basophil", "BAS", "basophil"),
        CellClass("erythroblast", "EBO", "erythroblast"),
        CellClass("eosinophil", "EOS", "eosinophil"),
        CellClass("smudge_cell", "KSC", "smudge cell"),
        CellClass("lymphocyte_atypical", "LYA", "atypical lymphocyte"),
        CellClass("lymphocyte", "LYT", "lymphocyte", ("typical lymphocyte",)),
        CellClass("metamyelocyte", "MMZ", "metamyelocyte"),
        CellClass("monoblast", "MOB", "monoblast"),
        CellClass("monocyte", "MON", "monocyte"),
        CellClass("myelocyte", "MYB", "myelocyte"),
        CellClass("myeloblast", "MYO", "myeloblast"),
        CellClass("neutrophil_band", "NGB", "band neutrophil", ("banded neutrophil",)),
        CellClass("neutrophil_segmented", "NGS", "segmented neutrophil", ("seg neutrophil",)),
        # "Bilobled" is how the key of the published set spells it.
        CellClass(
            "promyelocyte_bilobed", "PMB", "bilobed promyelocyte", ("promyelocyte bilobled",)
        ),
        CellClass("promyelocyte", "PMO", "promyelocyte"),
    )
}

_NARROWER = {"neutrophil": ("neutrophil_segmented", "neutrophil_band")}
"""Classes outside the list that laboratories count several of its classes as."""


def is_class_id(text: str) -> bool:
    """Whether a text has the form of a class id.

    The form is a lower-case letter and at most 62 of ``a-z0-9_``.
    """
    return _CLASS_ID.fullmatch(text) is not None


def is_known_class(class_id: str) -> bool:
    """Whether the package's bases know the class or parts of it."""
    return class_id in CELL_CLASSES or class_id in _NARROWER


def resolve_class_id(name: str) -> str:
    """Class id that a name stands for; empty if there is none.

    Understands ids, Munich codes and display names, whatever their case, separators, order of
    words or plural: ``LYT``, ``Band neutrophils``, ``neutrophil (band)``. Other names become the
    id that they spell: ``Blast cells`` is ``blast_cells``.
    """
    words = _words(name)
    known = _KNOWN_NAMES.get(_key(words))
    if known and name.isascii():
        return known
    if is_class_id(name):
        return name
    spelled = "_".join(words)
    return spelled if _PLAIN_NAME.fullmatch(name.strip()) and is_class_id(spelled) else ""


def suggest_class_id(name: str) -> str:
    """A valid class id close to ``name``."""
    text = "_".join(_words(unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()))
    return (text if text[:1].isalpha() else f"class_{text}")[:63].rstrip("_")


def similar_class(class_id: str) -> str:
    """The known class that an id abbreviates or misspells; empty without one."""
    known = [*CELL_CLASSES, *_NARROWER]
    longer = [each for each in known if len(class_id) >= 3 and each.startswith(class_id)]
    close = difflib.get_close_matches(class_id, known, 1, 0.8)
    return longer[0] if len(longer) == 1 else next(iter(close), "")


def class_phrase(class_id: str) -> str:
    """Words for a class in a prompt, by default the id's."""
    known = CELL_CLASSES.get(class_id)
    return known.phrase if known else class_id.replace("_", " ")


def narrower_classes(class_id: str) -> tuple[str, ...]:
    """The listed classes that a class stands for, the commonest first."""
    return _NARROWER.get(class_id, (class_id,))


def class_prompt(class_id: str) -> str:
    """Text prompt of a class, identical in training and synthesis."""
    return f"a microscopic image of a single {class_phrase(class_id)}"


def _words(name: str) -> list[str]:
    """Lower-case words of a name; ``BandNeutrophil`` has two."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def _key(words: list[str]) -> frozenset[str]:
    """The words of a name in any order, without plurals and "cell"."""
    singular = {word[:-1] if word.endswith("s") and len(word) > 3 else word for word in words}
    return frozenset(singular - {"cell"})


_KNOWN_NAMES: dict[frozenset[str], str] = {
    _key(_words(name)): class_id
    for class_id, names in [
        *(
            (cell.class_id, (cell.class_id, cell.munich_code, cell.phrase, *cell.other_names))
            for cell in CELL_CLASSES.values()
        ),
        *((wide, (wide,)) for wide in _NARROWER),
    ]
    for name in names
}
