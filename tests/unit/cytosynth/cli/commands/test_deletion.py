"""Whatever can be deleted is deleted with proof."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.servers.toy_services.server import Cyto


def test_datasets_are_listed_and_deleted(cyto: Cyto, cells: Path) -> None:
    cyto("upload", cells, "--shots", 1)
    assert json.loads(cyto("datasets", "--json")[1])[0]["name"] == "datasets/d1"
    code, out, _ = cyto("delete", "datasets/d1", "--yes")
    assert (code, out) == (0, "datasets/d1: 5 objects deleted, proof d1\n")
    assert json.loads(cyto("datasets", "--json")[1]) == []
