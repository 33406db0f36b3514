"""Manifests that the checks must refuse: overlays' objects with one mistake.

``deploy/k8s/planted.yaml`` names for each case the object, the JSON patch (RFC 6902: add, remove,
replace) and every reason to refuse it.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEFAULT_OVERLAY = "dev"
_HASH = re.compile(r"-[a-z0-9]{10}$")
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """One manifest that must be refused."""

    name: str
    manifest: Manifest
    reasons: frozenset[str]


def load(path: Path, overlays: dict[str, list[Manifest]]) -> list[Planted]:
    """Every case of a file, applied to the rendered overlays.

    Raises:
        ValueError: a case states no reason, or does not fit the overlays.
    """
    cases = yaml.safe_load(path.read_text())
    return [_planted(name, case, overlays) for name, case in cases.items()]


def _planted(name: str, case: Manifest, overlays: dict[str, list[Manifest]]) -> Planted:
    reasons = frozenset(case.get("refused", ()))
    if not reasons:
        raise ValueError(f"{name} states no reason: list them under `refused`")
    manifest = case.get("manifest")
    if manifest is None:
        found = overlays[case.get("overlay", DEFAULT_OVERLAY)]
        manifest = deepcopy(_object(name, case["object"], found))
        manifest["metadata"]["name"] = _plain_name(manifest)
        _apply(name, manifest, case.get("patch", ()))
        if "serve_patch" in case:
            config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
            _apply(name, config, case["serve_patch"])
            manifest["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    return Planted(name, manifest, reasons)


def _object(name: str, wanted: str, manifests: list[Manifest]) -> Manifest:
    for one in manifests:
        if f"{one['kind']}/{_plain_name(one)}" == wanted:
            return one
    raise ValueError(f"{name}: the overlay has no {wanted}")


def _plain_name(manifest: Manifest) -> str:
    """The name without the hash that kustomize appends to a generated ConfigMap's."""
    name: str = manifest["metadata"]["name"]
    return _HASH.sub("", name) if manifest["kind"] == "ConfigMap" else name


def _apply(name: str, document: Any, patch: Any) -> None:
    for step in patch:
        try:
            _change(document, **step)
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"{name}: {step['op']} {step['path']} does not fit") from None


def _change(document: Any, op: str, path: str, value: Any = None) -> None:
    *parents, last = (
        part.replace("~1", "/").replace("~0", "~") for part in path.removeprefix("/").split("/")
    )
    place = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = last
    if isinstance(place, list):
        key = len(place) if last == "-" else int(last)
    match op:
        case "add" if isinstance(place, list):
            place.insert(key, value)
        case "add":
            place[key] = value
        case "remove":
            del place[key]
        case "replace":
            place[key]
            place[key] = value
        case _:
            raise ValueError(op)
