"""Models are listed, aliases moved and removed."""

from __future__ import annotations

import json

from tests.support.servers.toy_services.server import Cyto


def test_models_and_aliases(cyto: Cyto) -> None:
    assert json.loads(cyto("models", "--json")[1])[0]["aliases"] == ["aliases/production"]
    out = cyto("alias", "set", "production", "classifiers/c2")[1]
    assert out == "aliases/production -> classifiers/c2 (before: classifiers/c1)\n"
    assert "classifiers/c1 (before: nothing)" in cyto("alias", "rollback", "production")[1]
    assert "classifiers/c1" in cyto("alias", "list")[1]
