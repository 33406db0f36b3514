"""The mix of a review: balanced, blinded, sampled once."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytosynth.client import CytosynthError
from cytosynth.review.answers import ANSWERS_FILE
from cytosynth.review.mix import MIX_FILE, MixOptions, open_mix, read_mix, shown_cells
from tests.support.reviews import CLASSES, SYNTHETIC_PX, phantom, small_mix, write_trees


def _png_chunks(data: bytes) -> set[bytes]:
    kinds, at = set(), 8
    while at < len(data):
        kinds.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return kinds


def test_a_mix_holds_as_many_real_as_synthetic_cells_of_every_class(tmp_path: Path) -> None:
    mix, _ = small_mix(tmp_path, per_class=2)
    assert Counter((cell.origin, cell.class_id) for cell in mix.cells) == {
        (origin, class_id): 2 for origin in ("real", "synthetic") for class_id in CLASSES
    }
    assert mix.class_ids == CLASSES and not mix.notices


def test_a_class_with_fewer_cells_on_one_side_has_as_few_on_the_other(tmp_path: Path) -> None:
    photos, drawn = write_trees(tmp_path, 3)
    (drawn / "monocyte" / "secret0.png").unlink()
    (drawn / "lymphocyte" / "secret0.png").rename(drawn / "lymphocyte" / "other.png")
    (photos / "basophil").mkdir()
    Image.fromarray(phantom("basophil", 0, 60)).save(photos / "basophil" / "0.png")
    mix = open_mix(photos, drawn, tmp_path / "out", MixOptions(3))
    counts = Counter((cell.class_id, cell.origin) for cell in mix.cells)
    assert counts["monocyte", "real"] == counts["monocyte", "synthetic"] == 2
    assert counts["lymphocyte", "real"] == 3
    assert "monocyte: 2 instead of 3 cells of each origin" in mix.notices
    assert "basophil: left out, there are no synthetic cells of it" in mix.notices


def test_files_and_names_do_not_tell_real_from_synthetic(tmp_path: Path) -> None:
    leftover = tmp_path / "out" / "cells" / "of an interrupted draw.png"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    mix, out = small_mix(tmp_path)
    shown = shown_cells(mix, out)
    assert len({len(data) for data in shown.values()}) == 1
    assert {frozenset(_png_chunks(data)) for data in shown.values()} == {
        frozenset({b"IHDR", b"IDAT", b"IEND"})
    }
    sizes = {Image.open(io.BytesIO(data)).size for data in shown.values()}
    assert sizes == {(SYNTHETIC_PX, SYNTHETIC_PX)} and mix.size_px == SYNTHETIC_PX
    assert sorted(path.stem for path in (out / "cells").iterdir()) == sorted(shown)
    again, _ = small_mix(tmp_path / "again")
    assert [cell.file_name for cell in again.cells] == [cell.file_name for cell in mix.cells]
    assert not {cell.id for cell in again.cells} & {cell.id for cell in mix.cells}


def test_only_real_cells_are_cropped(tmp_path: Path) -> None:
    mix, out = small_mix(tmp_path, center_crop=0.5)
    assert mix.size_px == 30  # half of 60, below the 40 of the synthetic ones
    shown = shown_cells(mix, out)
    for cell in mix.cells:
        pixels = np.asarray(Image.open(io.BytesIO(shown[cell.id]))).astype(int)
        number = int(Path(cell.file_name).stem.removeprefix("secret"))
        if cell.origin == "real":
            expected = phantom(cell.class_id, number, 60)[15:45, 15:45]
        else:
            whole = Image.fromarray(phantom(cell.class_id, number, 40))
            expected = np.asarray(whole.resize((30, 30), Image.Resampling.LANCZOS))
        assert np.abs(pixels - expected).mean() < 12  # JPEG


def test_every_reviewer_has_an_order_of_his_own_that_stays(tmp_path: Path) -> None:
    mix, out = small_mix(tmp_path, per_class=3)
    ids = sorted(cell.id for cell in mix.cells)
    assert sorted(mix.order("Ada")) == sorted(mix.order("Ben")) == ids
    assert mix.order("Ada") == read_mix(out).order("ada")
    assert mix.order("Ada") != mix.order("Ben")


def test_the_same_again_gives_the_same_mix(tmp_path: Path) -> None:
    mix, out = small_mix(tmp_path)
    read: list[int] = []
    again = open_mix(
        tmp_path / "photos", tmp_path / "drawn", out, MixOptions(2), lambda n, _: read.append(n)
    )
    assert again == mix and read[-1] == len(mix.cells)


def test_another_mix_in_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    mix, out = small_mix(tmp_path)
    photos, drawn = tmp_path / "photos", tmp_path / "drawn"
    with pytest.raises(CytosynthError, match=r"--per-class was 2, not 3.*another --out"):
        open_mix(photos, drawn, out, MixOptions(3))
    with pytest.raises(CytosynthError, match=r"--center-crop was 1.0, not 0.5"):
        open_mix(photos, drawn, out, MixOptions(2, 0.5))
    drawn_file = next(cell.file_name for cell in mix.cells if cell.origin == "synthetic")
    kept = (drawn / drawn_file).read_bytes()
    Image.fromarray(phantom("basophil", 5, 40)).save(drawn / drawn_file)
    with pytest.raises(CytosynthError, match=f"{drawn_file} in the --synthetic folder is another"):
        open_mix(photos, drawn, out, MixOptions(2))
    (drawn / drawn_file).unlink()
    with pytest.raises(CytosynthError, match=f"{drawn_file} in the --synthetic folder is missing"):
        open_mix(photos, drawn, out, MixOptions(2))
    (drawn / drawn_file).write_bytes(kept)
    assert open_mix(photos, drawn, out, MixOptions(2)) == mix


def test_damage_is_named(tmp_path: Path) -> None:
    mix, out = small_mix(tmp_path)
    (out / "cells" / f"{mix.cells[0].id}.png").write_bytes(b"other")
    with pytest.raises(CytosynthError, match=rf"{mix.cells[0].id}\.png is missing or damaged"):
        shown_cells(mix, out)
    (out / MIX_FILE).write_text("{}")
    with pytest.raises(CytosynthError, match=r"mix\.json is missing or damaged"):
        read_mix(out)
    (out / MIX_FILE).unlink()
    (out / ANSWERS_FILE).touch()
    with pytest.raises(CytosynthError, match=r"holds answers, but mix\.json"):
        open_mix(tmp_path / "photos", tmp_path / "drawn", out, MixOptions(2))
    with pytest.raises(CytosynthError, match=r"holds no review \(mix\.json is missing\)"):
        read_mix(tmp_path / "photos")


def test_folders_that_make_no_mix_are_refused(tmp_path: Path) -> None:
    photos, drawn = write_trees(tmp_path, 1)
    out = tmp_path / "out"
    with pytest.raises(CytosynthError, match=r"is the same file as real"):
        open_mix(photos, photos, out, MixOptions())
    (drawn / "monocyte" / "secret0.png").write_bytes(b"no image")
    with pytest.raises(CytosynthError, match=r"monocyte/secret0\.png: is not an image"):
        open_mix(photos, drawn, out, MixOptions())
    Image.fromarray(phantom("monocyte", 1, 40)).resize((9, 9)).save(
        drawn / "monocyte" / "secret0.png"
    )
    with pytest.raises(CytosynthError, match=r"monocyte/secret0\.png: 9x9 pixels"):
        open_mix(photos, drawn, out, MixOptions())
    for class_id in CLASSES:
        (drawn / class_id).rename(drawn / f"{class_id}_b")
    with pytest.raises(CytosynthError, match=r"no class is in both folders \(real: lymphocyte"):
        open_mix(photos, drawn, out, MixOptions())
    assert not (out / MIX_FILE).exists()
