"""Prometheus and Alertmanager (Debian packages) against one local stack."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from benchmarks.monitoring.expressions import FOLDER

SCRAPE_SECONDS = 5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Both servers are on this machine, whatever proxy the environment names."""


class Receiver:
    """A webhook; keeps which alerts came, to which receiver, and when."""

    def __init__(self) -> None:
        came = self.came = dict[str, tuple[str, float]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in message["alerts"]:
                    if alert["status"] == "firing":
                        place = (message["receiver"], time.time())
                        came.setdefault(alert["labels"]["alertname"], place)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Address that takes alerts."""
        return f"http://127.0.0.1:{self._server.server_port}/"


class Prometheus:
    """Questions to a running Prometheus."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1/"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The finite samples of an instant vector, now.

        A quantile of no samples is NaN.
        """
        samples = self._ask("query", query=expression)["result"]
        return [one for one in samples if math.isfinite(float(one["value"][1]))]

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Samples over time, one entry per series."""
        step = max(SCRAPE_SECONDS, (end - start) / 300)
        result = self._ask("query_range", query=expression, start=start, end=end, step=step)
        return result["result"]

    def targets_up(self) -> int:
        """Targets whose last scrape succeeded."""
        return sum(one["health"] == "up" for one in self._ask("targets")["activeTargets"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        alerts = self._ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def _ask(self, path: str, **arguments: Any) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(arguments)}"
        with _DIRECT.open(url, timeout=60) as answer:
            return json.load(answer)["data"]


@contextmanager
def monitoring(
    targets: Path, work: Path, receiver: Receiver, ports: tuple[int, int]
) -> Iterator[Prometheus]:
    """Runs both with the rules and routes of ``deploy/monitoring/``.

    Args:
        targets: Folder with a file of targets per job, as the local stack writes them.
        work: Folder for their configuration, data and logs.
        receiver: Gets every alert, in place of the receivers' own addresses.
        ports: Where Prometheus and Alertmanager listen, on loopback.
    """
    work.mkdir(parents=True, exist_ok=True)
    prometheus, alertmanager = (f"127.0.0.1:{port}" for port in ports)
    (work / "prometheus.yml").write_text(yaml.safe_dump(_config(targets, alertmanager)))
    (work / "alertmanager.yml").write_text(yaml.safe_dump(_routes(receiver.url)))
    shutil.rmtree(work / "data", ignore_errors=True)
    commands = {
        "prometheus": [
            "prometheus",
            f"--config.file={work}/prometheus.yml",
            f"--storage.tsdb.path={work}/data/prometheus",
            f"--web.listen-address={prometheus}",
        ],
        "alertmanager": [
            "prometheus-alertmanager",
            f"--config.file={work}/alertmanager.yml",
            f"--storage.path={work}/data/alertmanager",
            f"--web.listen-address={alertmanager}",
            "--cluster.listen-address=",
        ],
    }
    processes = []
    try:
        for name, command in commands.items():
            with (work / f"{name}.log").open("w") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        for address in (prometheus, alertmanager):
            _wait_until_ready(address)
        yield Prometheus(prometheus)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _config(targets: Path, alertmanager: str) -> dict[str, Any]:
    """The cluster's configuration with local discovery and short intervals."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"], job["relabel_configs"]
        name = job["job_name"].removeprefix("cytosynth-")
        job["file_sd_configs"] = [{"files": [f"{targets}/{name}.json"]}]
    config["global"] = {
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "scrape_timeout": f"{SCRAPE_SECONDS}s",
    }
    config["rule_files"] = [f"{FOLDER}/rules/*.yaml"]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return config


def _routes(url: str) -> dict[str, Any]:
    """The real routes, with ``url`` as every receiver's address and short waits."""
    config = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    config["route"] |= {"group_wait": "1s", "group_interval": "5s"}
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
    return config


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            _DIRECT.open(f"http://{address}/-/ready", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
