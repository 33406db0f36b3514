"""Detection of planted manifests that pass, or fail for the wrong reason."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools"))

manifests = pytest.importorskip("manifests")
planted = pytest.importorskip("manifest_planted")


OVERLAYS = {
    "dev": [
        {"kind": "ConfigMap", "metadata": {"name": "a-settings-75tb25b5tg"}, "data": {"X": "1"}},
        {"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"image": "x:1"}]}},
        {"kind": "RayService", "metadata": {"name": "r"}, "spec": {"serveConfigV2": "port: 1"}},
    ]
}


def _planted(tmp_path: Path, case: str) -> Any:
    path = tmp_path / "planted.yaml"
    path.write_text(case)
    return planted.load(path, OVERLAYS)


def test_planted_manifest_must_fail_for_its_reason_and_no_other() -> None:
    assert manifests._unexpected(["Pod/a: policy: x"], {"Pod/a: policy: x"}) == []
    (missed,) = manifests._unexpected(["Pod/a: policy: x"], set())
    assert missed.startswith("was not refused for")
    both = manifests._unexpected(["Pod/a: policy: x"], {"Pod/a: policy: x", "Pod/a: policy: y"})
    assert both == ["was refused for another reason: Pod/a: policy: y"]


def test_planted_manifest_is_the_overlays_object_with_its_patch(tmp_path: Path) -> None:
    (case,) = _planted(
        tmp_path,
        "latest: {refused: [why], object: Pod/a, patch: ["
        "{op: replace, path: /spec/containers/0/image, value: x}, "
        "{op: add, path: /spec/containers/-, value: {image: y}}, "
        "{op: add, path: /metadata/a~1b, value: 1}]}",
    )
    assert (case.name, case.reasons) == ("latest", frozenset(["why"]))
    assert case.manifest["spec"]["containers"] == [{"image": "x"}, {"image": "y"}]
    assert case.manifest["metadata"] == {"name": "a", "a/b": 1}
    assert OVERLAYS["dev"][1]["spec"] == {"containers": [{"image": "x:1"}]}


def test_planted_settings_are_found_without_their_hash(tmp_path: Path) -> None:
    (case,) = _planted(
        tmp_path,
        "a: {refused: [why], object: ConfigMap/a-settings, patch: [{op: remove, path: /data/X}]}",
    )
    assert case.manifest["metadata"]["name"] == "a-settings"
    assert case.manifest["data"] == {}


def test_planted_serve_configuration_is_patched_inside(tmp_path: Path) -> None:
    (case,) = _planted(
        tmp_path,
        "a: {refused: [why], object: RayService/r, serve_patch: "
        "[{op: replace, path: /port, value: 2}]}",
    )
    assert case.manifest["spec"]["serveConfigV2"] == "port: 2\n"


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("a: {object: Pod/a}", "a states no reason"),
        ("a: {refused: [why], object: Pod/b}", "the overlay has no Pod/b"),
        (
            "a: {refused: [why], object: Pod/a, patch: [{op: remove, path: /spec/x}]}",
            "a: remove /spec/x does not fit",
        ),
        (
            "a: {refused: [why], object: Pod/a, patch: [{op: replace, path: /x, value: 1}]}",
            "a: replace /x does not fit",
        ),
    ],
)
def test_planted_case_that_fits_nothing_is_a_problem(
    case: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        _planted(tmp_path, case)


def test_edge_manifest_is_what_the_template_renders() -> None:
    assert manifests.edge_problems() == []


def test_cluster_builder_refuses_args_and_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.common.settings import SettingsError
    from services.launch import cluster_apps

    with pytest.raises(SettingsError, match="not args"):
        cluster_apps.classifier({"device": "cpu"})
    monkeypatch.setenv("CYTOSYNTH_CLASSIFIER_DEVISE", "cpu")
    with pytest.raises(SettingsError, match="CYTOSYNTH_CLASSIFIER_DEVICE"):
        cluster_apps.classifier({})


@pytest.fixture
def ray_metrics() -> Iterator[tuple[int, list[int]]]:
    """A server of Ray's metrics that counts down the calls that run."""
    left = [3, 3, 2, 1, 1, 0, 0]

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200)
            self.end_headers()
            text = f'cytosynth_calls_in_progress{{application="a"}} {running}.0\nother 7\n'
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], left
    server.shutdown()


def test_pod_drains_until_no_call_runs(
    ray_metrics: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.operations import drain_pod

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    port, left = ray_metrics
    assert drain_pod.drain([port, port], 0, 60) == 0
    assert left == [0]


def test_dev_secrets_fit_what_the_pods_read(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "deploy/k8s/overlays/dev"))
    import make_secrets

    from services.common.settings import CommonSettings

    first, second = make_secrets.all_secrets(), make_secrets.all_secrets()
    assert first["cytosynth-redis"] != second["cytosynth-redis"]
    CommonSettings(database_url=first["cytosynth-database"]["url"])
    assert first["cytosynth-database"]["password"] in first["cytosynth-database"]["url"]
    assert {"tls.crt", "tls.key"} <= set(first["edge-tls"])
    assert first["edge-client-ca"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
