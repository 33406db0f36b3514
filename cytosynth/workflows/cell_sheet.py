"""Picture of real and synthetic cells of every class side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_CELL, _GAP, _MARGIN, _LABEL, _HEADER = 64, 4, 10, 165, 26
_PAPER, _INK = "white", "#222222"


def write_cell_sheet(
    path: Path, real: Mapping[str, Sequence[bytes]], synthetic: Mapping[str, Sequence[bytes]]
) -> None:
    """Writes a PNG with a row per class.

    A row shows the class name, real cells and synthetic cells.

    Args:
        path: File to write.
        real: Encoded images by class.
        synthetic: Encoded images of the same classes.
    """
    num_real = max(map(len, real.values()))
    num_synthetic = max(map(len, synthetic.values()))
    second = _LABEL + num_real * (_CELL + _GAP) + _MARGIN
    size = (
        second + num_synthetic * (_CELL + _GAP) + _MARGIN,
        _HEADER + len(real) * (_CELL + _GAP) + _MARGIN,
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((_LABEL, 6), "real", _INK, font)
    draw.text((second, 6), "synthetic", _INK, font)
    for row, class_id in enumerate(real):
        top = _HEADER + row * (_CELL + _GAP)
        draw.text((_MARGIN, top + _CELL // 2 - 8), class_id.replace("_", " "), _INK, font)
        for left, cells in ((_LABEL, real), (second, synthetic)):
            for column, data in enumerate(cells[class_id]):
                with Image.open(io.BytesIO(data)) as cell:
                    sheet.paste(
                        cell.convert("RGB").resize((_CELL, _CELL)),
                        (left + column * (_CELL + _GAP), top),
                    )
    sheet.quantize(256).save(path, optimize=True)  # half the size, and no difference to the eye
