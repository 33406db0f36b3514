"""The picture of the demonstration shows every cell in its place."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from cytosynth.client import Client
from cytosynth.workflows.cell_sheet import write_cell_sheet
from cytosynth.workflows.demo import demo_options, write_cells
from tests.support.servers.toy_services.server import ToyServices


def cell(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(file, "png")
    return file.getvalue()


def test_each_class_has_a_row_with_real_cells_before_synthetic_ones(tmp_path: Path) -> None:
    red, green, blue, grey = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
    write_cell_sheet(
        tmp_path / "cells.png",
        {"blast": [cell(red), cell(red)], "mono": [cell(green), cell(green)]},
        {"blast": [cell(blue)], "mono": [cell(grey)]},
    )
    with Image.open(tmp_path / "cells.png") as sheet:
        pixels = sheet.convert("RGB")
    rows = []
    for y in range(pixels.height):
        colors = [pixels.getpixel((x, y)) for x in range(160, pixels.width)]
        found = list(dict.fromkeys(c for c in colors if c in (red, green, blue, grey)))
        if found and (not rows or rows[-1] != found):
            rows.append(found)
    assert rows == [[red, blue], [green, grey]]


def test_the_demonstration_asks_for_a_few_cells_of_each_class(
    toy: ToyServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytosynth.workflows.demo.IMAGES_PER_CLASS", 2)
    monkeypatch.setattr("cytosynth.workflows.demo.CELLS_SHOWN", 2)
    options = demo_options(tmp_path / "demo")
    toy.generator.class_ids = set(options.class_shots)
    shown = []
    monkeypatch.setattr(
        "cytosynth.workflows.demo.write_cell_sheet",
        lambda path, real, synthetic: shown.extend((real, synthetic)),
    )
    with Client(toy.address) as client:
        assert write_cells(client, options, "adapters/a") == options.out / "cells.png"
    (request,) = toy.generator.requests
    assert request.adapter == "adapters/a"
    real, synthetic = shown
    assert synthetic["lymphocyte"] == [b"lymphocyte:2", b"lymphocyte:3"]
    assert {len(cells) for cells in real.values()} == {2}
