"""The blinded mix of a review: sampled once, then only read.

``<out>/cells/<id>.png`` are the cells as they are shown, ``<out>/mix.json`` says what they are.
The table is written last: a mix exists whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cytosynth.client.atomic_files import write_whole
from cytosynth.client.errors import CytosynthError, invalid_argument
from cytosynth.client.image_tree import ImageFile, ImageTree, read_image, read_image_tree
from cytosynth.review.answers import ANSWERS_FILE
from cytosynth.review.cell_image import LARGEST_EDGE_PX, RgbImage, encode_cell, read_cell

MIX_FILE = "mix.json"
CELLS_FOLDER = "cells"
REAL, SYNTHETIC = "real", "synthetic"
ORIGINS = (REAL, SYNTHETIC)

OnCell = Callable[[int, int], None]
"""Called with cells read and cells in all."""


@dataclass(frozen=True)
class MixOptions:
    """What decides which cells are sampled.

    Attributes:
        per_class: Cells of each class from each origin, at most.
        center_crop: Share of a real image's shorter edge that is shown, above 0, at most 1.
        seed: Seed of the sample and of every reviewer's order.
    """

    per_class: int = 10
    center_crop: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One cell of the mix, with the truth about it.

    Attributes:
        id: Random; the only field that a reviewer's browser gets.
        origin: "real" or "synthetic".
        class_id: The class of a real cell, or the class a synthetic one was asked to be.
        file_name: Path below the folder it came from.
        sha256: Digest of that file.
        png_sha256: Digest of the cell as it is shown.
    """

    id: str
    origin: str
    class_id: str
    file_name: str
    sha256: str
    png_sha256: str


@dataclass(frozen=True)
class Mix:
    """Cells of a review by origin, class and file, with notices."""

    options: MixOptions
    size_px: int
    class_ids: tuple[str, ...]
    cells: tuple[Cell, ...]
    notices: tuple[str, ...] = ()

    def order(self, reviewer: str) -> list[str]:
        """Cell ids in the order of one reviewer, always the same."""
        key = hashlib.sha256(f"{self.options.seed}\0{reviewer.casefold()}".encode()).digest()
        shuffled = np.random.default_rng(list(key)).permutation(len(self.cells))
        return [self.cells[number].id for number in shuffled]


def open_mix(
    real: Path, synthetic: Path, out: Path, options: MixOptions, on_cell: OnCell | None = None
) -> Mix:
    """The mix of ``out``, sampled now if there is none.

    Args:
        real, synthetic: ImageFolder trees.
        out: Folder of the review; made if it is missing.
        options: How cells are sampled.
        on_cell: Called for every cell that was read.

    Raises:
        CytosynthError: A folder cannot be used, or ``out`` holds the mix of other options or of
            files that have changed since; says which.
    """
    trees = {REAL: read_image_tree(real), SYNTHETIC: read_image_tree(synthetic)}
    if (out / MIX_FILE).exists():
        mix = read_mix(out)
        _check_same(mix, trees, out, options, on_cell or _ignore)
        return mix
    if (out / ANSWERS_FILE).exists():
        raise CytosynthError(
            "DATA_LOSS",
            f"{out} holds answers, but {MIX_FILE}, which says to which cells, is missing",
            remedy=f"put {MIX_FILE} back, or choose another --out",
        )
    return _sample(trees, out, options, on_cell or _ignore)


def read_mix(out: Path) -> Mix:
    """Read the mix of the folder ``out``.

    Raises:
        CytosynthError: The folder holds no mix, or the mix is damaged.
    """
    path = out / MIX_FILE
    if not path.is_file():
        raise CytosynthError(
            "FAILED_PRECONDITION",
            f"{out} holds no review ({MIX_FILE} is missing)",
            remedy="name the --out of a `cytosynth review`",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Mix(
            options=MixOptions(**content["options"]),
            size_px=int(content["size_px"]),
            class_ids=tuple(content["class_ids"]),
            cells=tuple(Cell(**cell) for cell in content["cells"]),
            notices=tuple(content["notices"]),
        )
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None


def shown_cells(mix: Mix, out: Path) -> dict[str, bytes]:
    """PNG by cell id; raises if one is missing or was changed."""
    found = {}
    for cell in mix.cells:
        path = out / CELLS_FOLDER / f"{cell.id}.png"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != cell.png_sha256:
            raise _damaged(path)
        found[cell.id] = data
    return found


def _sample(trees: dict[str, ImageTree], out: Path, options: MixOptions, on_cell: OnCell) -> Mix:
    chosen, notices = _choose(trees, options)
    read: list[tuple[str, ImageFile, str, RgbImage]] = []
    seen: dict[str, str] = {}
    for origin, file in chosen:
        data, square = read_cell(file, options.center_crop if origin == REAL else 1.0)
        digest = hashlib.sha256(data).hexdigest()
        name = f"{origin} {file.file_name}"
        if digest in seen:
            raise invalid_argument(
                name, f"is the same file as {seen[digest]}", "remove one, or name other folders"
            )
        seen[digest] = name
        read.append((origin, file, digest, square))
        on_cell(len(read), len(chosen))
    # Sharpness tells origins apart, so all cells have the pixels of the smallest.
    size_px = min(LARGEST_EDGE_PX, *(square.shape[0] for _, _, _, square in read))
    for leftover in (out / CELLS_FOLDER).glob("*"):  # left by a run that was interrupted
        leftover.unlink()
    cells = []
    for origin, file, digest, square in read:
        png = encode_cell(square, size_px)
        id = secrets.token_hex(8)
        write_whole(out / CELLS_FOLDER / f"{id}.png", png)
        cells.append(
            Cell(id, origin, file.class_id, file.file_name, digest, hashlib.sha256(png).hexdigest())
        )
    class_ids = tuple(sorted({cell.class_id for cell in cells}))
    mix = Mix(options, size_px, class_ids, tuple(cells), tuple(notices))
    body = {"format": 1, **dataclasses.asdict(mix)}
    write_whole(out / MIX_FILE, json.dumps(body, indent=2).encode() + b"\n")
    return mix


def _choose(
    trees: dict[str, ImageTree], options: MixOptions
) -> tuple[list[tuple[str, ImageFile]], list[str]]:
    """Equally many real and synthetic cells of every common class, and notices."""
    notices = [f"{origin}: {notice}" for origin, tree in trees.items() for notice in tree.notices]
    by_origin = {
        origin: {c: [i for i in tree.images if i.class_id == c] for c in tree.class_ids}
        for origin, tree in trees.items()
    }
    common = sorted(set(by_origin[REAL]) & set(by_origin[SYNTHETIC]))
    if not common:
        raise invalid_argument(
            "--synthetic",
            f"no class is in both folders (real: {', '.join(by_origin[REAL])}; "
            f"synthetic: {', '.join(by_origin[SYNTHETIC])})",
            "name folders with the same classes",
        )
    for origin, other in ((REAL, SYNTHETIC), (SYNTHETIC, REAL)):
        notices += [
            f"{class_id}: left out, there are no {other} cells of it"
            for class_id in sorted(set(by_origin[origin]) - set(common))
        ]
    chosen = []
    for number, origin in enumerate(ORIGINS):
        for class_id in common:
            files = by_origin[origin][class_id]
            count = min(options.per_class, *(len(by_origin[o][class_id]) for o in ORIGINS))
            if count < options.per_class and origin == REAL:
                notices.append(
                    f"{class_id}: {count} instead of {options.per_class} cells of each origin"
                )
            rng = np.random.default_rng([options.seed, number, zlib.crc32(class_id.encode())])
            picked = sorted(rng.choice(len(files), count, replace=False))
            chosen += [(origin, files[index]) for index in picked]
    return chosen, notices


def _check_same(
    mix: Mix, trees: dict[str, ImageTree], out: Path, options: MixOptions, on_cell: OnCell
) -> None:
    """Raise unless the options and every sampled file are what they were."""
    before, now = dataclasses.asdict(mix.options), dataclasses.asdict(options)
    for name, value in before.items():
        if now[name] != value:
            raise _differs(out, f"--{name.replace('_', '-')} was {value}, not {now[name]}")
    files = {(o, image.file_name): image for o, tree in trees.items() for image in tree.images}
    for number, cell in enumerate(mix.cells, 1):
        file = files.get((cell.origin, cell.file_name))
        name = f"{cell.file_name} in the --{cell.origin} folder"
        if file is None:
            raise _differs(out, f"{name} is missing")
        if hashlib.sha256(read_image(file.path, name)).hexdigest() != cell.sha256:
            raise _differs(out, f"{name} is another image now")
        on_cell(number, len(mix.cells))


def _differs(out: Path, what: str) -> CytosynthError:
    return CytosynthError(
        "FAILED_PRECONDITION",
        f"{out} holds the review of another mix: {what}",
        remedy="give the same folders and options, or choose another --out",
    )


def _damaged(path: Path) -> CytosynthError:
    return CytosynthError(
        "DATA_LOSS", f"{path} is missing or damaged", remedy="begin anew with another --out"
    )


def _ignore(done: int, total: int) -> None:
    pass
