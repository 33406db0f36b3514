"""Policies on manifests: Rego (ours, in deploy/k8s/policies) and checkov's Kubernetes checks."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
POLICIES = ROOT / "deploy/k8s/policies"
CHECKOV = ROOT / ".venv/manifest-tools/bin/checkov"
SKIPPED_CHECKS = {
    "CKV_K8S_43": "image by digest: what is built is not in a registry yet; a version is asked for",
    "CKV_K8S_15": "imagePullPolicy Always: versions do not change, and an air gap has no registry",
    "CKV_K8S_38": "service account tokens: heads and make-secrets need one, others have none",
    "CKV_K8S_35": "secrets as environment: SQLAlchemy, s3fs and Redis read no others",
    "CKV2_K8S_5": "roles that read secrets: our policy lets them create only",
    "CKV2_K8S_6": "NetworkPolicy per pod: default-deny selects all; checkov does not see it",
}


@cache
def _policies() -> Any:
    import regopy

    interpreter = regopy.Interpreter()
    for path in sorted(POLICIES.glob("*.rego")):
        interpreter.add_module(path.stem, path.read_text())
    return interpreter


def rego_problems(manifest: dict[str, Any]) -> list[str]:
    """What our policies deny of one object."""
    interpreter = _policies()
    interpreter.set_input(manifest)
    (denied,) = json.loads(str(interpreter.query("data.cytosynth.deny")))["expressions"]
    return [f"policy: {line}" for line in denied]


def checkov_problems(groups: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]] | None:
    """checkov's verdicts on named groups of objects; None without checkov."""
    if not CHECKOV.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        for group, manifests in groups.items():
            Path(folder, f"{group}.yaml").write_text(yaml.safe_dump_all(manifests))
        done = subprocess.run(
            [str(CHECKOV), "--directory", folder, "--framework", "kubernetes", "--output", "json",
             "--quiet", "--compact", "--skip-download", "--soft-fail",
             "--skip-check", ",".join(SKIPPED_CHECKS)],
            env={**os.environ, "LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"checkov: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    problems: dict[str, list[str]] = {group: [] for group in groups}
    for one in report.get("results", {}).get("failed_checks", []):
        kind, _, name = one["resource"].split(".", 2)
        problems[Path(one["file_path"]).stem].append(
            f"{kind}/{name}: checkov: {one['check_id']}: {one['check_name']}"
        )
    return problems
