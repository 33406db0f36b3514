"""Checks of ``deploy/monitoring/``.  Each function lists problems, one line each.

Structure is checked everywhere; promtool and amtool only where they are installed (Debian packages
``prometheus`` and ``prometheus-alertmanager``), which ``skipped`` tells.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "monitoring"
SEVERITY_RECEIVER = {"page": "pager", "ticket": "tickets"}
OWN_RECEIVER = {"WithheldShareHigh": "privacy"}
RUNBOOK_PARTS = ("## Meaning", "## Impact", "## How to look", "## What to do")


def monitoring_problems() -> list[str]:
    """All problems of ``deploy/monitoring/``."""
    problems = [*_generated_problems(), *_alert_problems(), *_dashboard_problems()]
    if shutil.which("promtool"):
        problems += _promtool_problems()
    else:
        print("skip    monitoring: promtool is not installed: rules are not tested", flush=True)
    if shutil.which("amtool"):
        problems += _amtool_problems()
    else:
        print("skip    monitoring: amtool is not installed: routes are not tested", flush=True)
    return problems


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _generated_problems() -> list[str]:
    sys.path.insert(0, str(ROOT))
    from deploy.monitoring.generate import generated

    return [
        f"{path.relative_to(ROOT)} is out of date: run `python -m deploy.monitoring.generate`"
        for path, text in generated().items()
        if not path.is_file() or path.read_text() != text
    ]


def _alert_problems() -> list[str]:
    problems, tested = [], _tested()
    names = [rule["alert"] for rule in _rules()]
    for rule in _rules():
        name, annotations = rule["alert"], rule.get("annotations", {})
        if names.count(name) > 1:
            problems.append(f"alert {name} stands twice")
        if rule.get("labels", {}).get("severity") not in SEVERITY_RECEIVER:
            problems.append(f"alert {name}: severity must be page or ticket")
        if not annotations.get("summary"):
            problems.append(f"alert {name} has no summary")
        runbook = ROOT / annotations.get("runbook_url", "-")
        if runbook != ROOT / "docs" / "runbooks" / f"{name}.md" or not runbook.is_file():
            problems.append(f"alert {name} has no page docs/runbooks/{name}.md")
        else:
            text = runbook.read_text()
            problems += [
                f"{runbook.name} lacks {part!r}" for part in RUNBOOK_PARTS if part not in text
            ]
        for fires in (True, False):
            if (name, fires) not in tested:
                what = "fires" if fires else "stays silent"
                problems.append(f"alert {name}: no test in which it {what}")
    return problems


def _tested() -> set[tuple[str, bool]]:
    return {
        (check["alertname"], bool(check["exp_alerts"]))
        for path in (FOLDER / "tests").glob("*.yaml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for check in test["alert_rule_test"]
    }


def _dashboard_problems() -> list[str]:
    names = {path.name for path in (FOLDER / "grafana").glob("*.json")}
    component = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    [config_map] = component["configMapGenerator"]
    problems = []
    if {Path(file).name for file in config_map["files"]} != names:
        problems.append("deploy/monitoring/kustomization.yaml does not name every dashboard")
    for name in sorted(names):
        panels = json.loads((FOLDER / "grafana" / name).read_text())["panels"]
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            if cells & taken or any(x >= 24 for x, _ in cells):
                problems.append(f"{name}: {panel['title']} does not fit its place")
            taken |= cells
    return problems


def _promtool_problems() -> list[str]:
    rules = sorted(str(path) for path in (FOLDER / "rules").glob("*.yaml"))
    tests = sorted(str(path) for path in (FOLDER / "tests").glob("*.yaml"))
    problems = _run("promtool", "check", "rules", *rules)
    problems += _run("promtool", "test", "rules", *tests)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    # Debian builds Prometheus without Kubernetes: these parts are left out of what it reads.
    local = copy.deepcopy(config)
    local["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": ["127.0.0.1:1"]}]}]
    for job in local["scrape_configs"]:
        job["static_configs"] = [{"targets": ["127.0.0.1:1"]}]
        if {one["role"] for one in job.pop("kubernetes_sd_configs")} != {"pod"}:
            problems.append(f"prometheus.yml: {job['job_name']} must discover pods")
    local["rule_files"] = rules
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prometheus.yml"
        path.write_text(yaml.safe_dump(local))
        return problems + _run("promtool", "check", "config", str(path))


def _amtool_problems() -> list[str]:
    # url_file is younger than Debian's Alertmanager; an address stands in for it here.
    text = (FOLDER / "alertmanager.yml").read_text()
    text = re.sub(r"url_file: [^,\s]+", "url: http://127.0.0.1:1/", text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alertmanager.yml"
        path.write_text(text)
        problems = _run("amtool", "check-config", str(path))
        for rule in _rules():
            wanted = SEVERITY_RECEIVER[rule["labels"]["severity"]]
            wanted = OWN_RECEIVER.get(rule["alert"], wanted)
            labels = [f"{key}={value}" for key, value in rule["labels"].items()]
            problems += _run(
                *("amtool", "config", "routes", "test", f"--config.file={path}"),
                *(f"--verify.receivers={wanted}", f"alertname={rule['alert']}", *labels),
            )
    return problems


def _run(*command: str) -> list[str]:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if not done.returncode:
        return []
    return [f"{' '.join(command[:3])}: {line}" for line in done.stdout.strip().splitlines()]
