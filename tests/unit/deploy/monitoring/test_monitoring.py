"""Findings of the deploy/monitoring checks, and statistics served by the edge."""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from benchmarks.monitoring.expressions import Expression, alert_expressions, panel_expressions
from benchmarks.monitoring.preview import with_unit
from tests.support.servers.edge import free_ports, running_edge

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``tools/monitoring.py`` on a copy of what it checks."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import monitoring

    for folder in ("deploy/monitoring", "docs/runbooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.setattr(monitoring, "ROOT", tmp_path)
    monkeypatch.setattr(monitoring, "FOLDER", tmp_path / "deploy/monitoring")
    yield monitoring
    sys.modules.pop("monitoring")


def test_what_is_committed_has_no_problem(checks) -> None:
    assert checks._alert_problems() == []
    assert checks._dashboard_problems() == []


def test_an_alert_without_page_or_test_is_found(checks) -> None:
    path = checks.FOLDER / "rules" / "alerts.yaml"
    path.write_text(path.read_text().replace("alert: JobStuck", "alert: JobDull"))
    assert checks._alert_problems() == [
        "alert JobDull has no page docs/runbooks/JobDull.md",
        "alert JobDull: no test in which it fires",
        "alert JobDull: no test in which it stays silent",
    ]


def test_a_page_without_a_part_is_found(checks) -> None:
    path = checks.ROOT / "docs/runbooks/JobStuck.md"
    path.write_text(path.read_text().replace("## What to do", "## Hope"))
    assert checks._alert_problems() == ["JobStuck.md lacks '## What to do'"]


def test_a_dashboard_that_kustomize_does_not_name_is_found(checks) -> None:
    folder = checks.FOLDER / "grafana"
    shutil.copy(folder / "edge.json", folder / "more.json")
    assert checks._dashboard_problems() == [
        "deploy/monitoring/kustomization.yaml does not name every dashboard"
    ]


@pytest.mark.skipif(not shutil.which("amtool"), reason="amtool is not installed")
def test_an_alert_that_goes_astray_is_found(checks) -> None:
    path = checks.FOLDER / "alertmanager.yml"
    path.write_text(path.read_text().replace("severity = page", "severity = pages"))
    problems = checks._amtool_problems()
    assert any("Expected receivers did not match" in problem for problem in problems)


def test_the_operator_scrapes_what_prometheus_scrapes() -> None:
    folder = ROOT / "deploy/monitoring"
    jobs = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    monitors = [*yaml.safe_load_all((folder / "pod_monitors.yaml").read_text())]
    assert [job["job_name"] for job in jobs] == [one["metadata"]["name"] for one in monitors]
    for job, monitor in zip(jobs, monitors, strict=True):
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        own = job["job_name"] == "cytosynth-services"
        assert endpoint["port"] == ("app-metrics" if own else "metrics")
        [ports] = [
            rule["regex"]
            for rule in job["relabel_configs"]
            if "__meta_kubernetes_pod_container_port_name" in rule.get("source_labels", [])
        ]
        assert ports == f"cytosynth;{endpoint['port']}"
        assert endpoint.get("path", "/metrics") == job.get("metrics_path", "/metrics")
        named = {rule["targetLabel"]: rule for rule in endpoint["relabelings"]}
        assert named["job"]["replacement"] == job["job_name"]
        assert ("component" in named) == own
        dropped = [rule["regex"] for rule in job.get("metric_relabel_configs", [])]
        assert [rule["regex"] for rule in endpoint.get("metricRelabelings", [])] == dropped


def test_selectors_are_what_an_expression_reads() -> None:
    text = 'sum by (a) (rate(b{c="d{e}"}[5m])) / on (a) group_left () max(f) > 2 or g'
    assert Expression("", text).selectors == ['b{c="d{e}"}', "f{}", "g{}"]


def test_every_panel_and_alert_reads_series() -> None:
    expressions = [*panel_expressions(), *alert_expressions()]
    assert len(expressions) > 50
    assert all(expression.selectors for expression in expressions)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.25, "percentunit", "25 %"), (5400, "s", "1.5 h"), (3 << 20, "bytes", "3 MiB")],
)
def test_previews_write_units_as_grafana_does(value: float, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text


def test_the_edge_serves_statistics_and_nothing_else(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with running_edge(tmp_path, 1, metrics_port=port):
        base = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{base}/stats/prometheus", timeout=10) as answer:
            assert b"envoy_server_live" in answer.read()
        for path, method in (
            ("/config_dump", "GET"),
            ("/quitquitquit", "POST"),
            ("/stats/prometheus", "POST"),
            ("/stats/prometheus/../../config_dump", "GET"),
        ):
            request = urllib.request.Request(base + path, method=method)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(request, timeout=10)
