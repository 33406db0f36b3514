"""Whatever can be deleted is deleted with proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.servers.toy_services.server import Cyto


def test_datasets_are_listed_and_deleted(cyto: Cyto, cells: Path) -> None:
    cyto("upload", cells, "--shots", 1)
    assert json.loads(cyto("datasets", "--json")[1])[0]["name"] == "datasets/d1"
    code, out, _ = cyto("delete", "datasets/d1", "--yes")
    assert (code, out) == (0, "datasets/d1: 5 objects deleted, proof d1\n")
    assert json.loads(cyto("datasets", "--json")[1]) == []


@pytest.mark.parametrize(
    ("name", "proof"),
    [("classifiers/c2", "3 objects deleted, proof d3"), ("reports/r1", "4 objects deleted")],
)
def test_classifiers_and_reports_are_deleted(cyto: Cyto, name: str, proof: str) -> None:
    code, out, _ = cyto("delete", name, "--yes")
    assert code == 0
    assert out.startswith(f"{name}: {proof}")


def test_a_classifier_behind_an_alias_is_refused_until_the_alias_is_removed(cyto: Cyto) -> None:
    code, _, err = cyto("delete", "classifiers/c1", "--yes")
    assert code == 1
    assert "aliases/production points at it; remove it with `cytosynth alias delete" in err
    assert cyto("alias", "delete", "production")[:2] == (0, "aliases/production: removed\n")
    assert json.loads(cyto("alias", "list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("jobs/j1", "`cytosynth cancel` ends it"),
        ("aliases/a", "use `cytosynth alias delete`"),
        ("cells", "is none of datasets/…, adapters/…, classifiers/…, reports/…"),
    ],
)
def test_what_cannot_be_deleted_is_a_usage_error(cyto: Cyto, name: str, remedy: str) -> None:
    code, _, err = cyto("delete", name, "--yes")
    assert code == 2
    assert remedy in " ".join(err.replace("│", " ").split())
