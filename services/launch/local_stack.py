"""The supervisor of one local stack: Ray Serve and the Envoy edge.

`cytosynth.stack.stack.up` starts the supervisor, which writes down what it is doing. The supervisor
ends everything it started on SIGTERM, or when a part is lost that it cannot bring back.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from cytosynth.stack import processes as stack_processes
from cytosynth.stack.probe import probe_services
from cytosynth.stack.state import TOKEN_VARIABLE, StackError, StackFiles, StackInfo
from services.common.exposition import clear_series, expose
from services.common.rpc.server import Listen
from services.common.settings import SettingsError
from services.edge.render import EdgeConfig, EdgeTls
from services.launch.edge_process import EdgeFailed, EdgeProcess
from services.launch.local_ray import LOOPBACK, LocalRay, RayFailed
from services.launch.ray_environment import ray_environment
from services.launch.service_settings import load_all
from services.launch.stack_metrics import StackMetrics

logger = logging.getLogger("cytosynth.stack")


class StackFailed(Exception):
    """The stack cannot go on; the message is for its user."""


class _Stop(BaseException):
    """Somebody asked the stack to stop."""


# Read by the command line and the process table.
_OTHER_VARIABLES = (
    "CYTOSYNTH_ADDRESS",
    "CYTOSYNTH_TENANT",
    "CYTOSYNTH_TLS_DIR",
    TOKEN_VARIABLE,
)


@dataclass(frozen=True)
class _Ports:
    internal: int
    admin: int
    edge_metrics: int
    series: int


def build_apps(listen: Mapping[str, Listen]) -> dict[str, Any]:
    """The three applications, each with its settings from the environment.

    Args:
        listen: Where the servers of each listen.

    Raises:
        SettingsError: a variable is wrong, or nothing reads it.
    """
    return {
        name: import_module(f"services.{name}.app").build_app(settings, listen[name])
        for name, settings in load_all(_OTHER_VARIABLES).items()
    }


class Supervisor:
    """Starts the parts in order, watches them, and ends them."""

    def __init__(self, files: StackFiles, info: StackInfo, apps: str) -> None:
        self._files, self._info, self._apps = files, info, apps
        # All of them, so that a wrong one is named before anything starts.
        settings = load_all(_OTHER_VARIABLES)
        self._settings = settings["trainer"]
        self._metrics_dir = self._settings.metrics_dir or files.series
        # One port for each replica, and one for a replica that starts beside one that ends.
        num_ports = {name: each.num_servers + 1 for name, each in settings.items()}
        free = iter(_free_ports(4 + sum(num_ports.values())))
        self._ports = _Ports(*islice(free, 4))
        self._listen = {
            name: Listen(LOOPBACK, tuple(islice(free, number)))
            for name, number in num_ports.items()
        }
        self._edge = EdgeProcess(files.envoy_config, files.envoy_log)
        assert info.runtime_dir is not None
        self._ray = LocalRay(files.ray, info.runtime_dir)

    def run(self) -> None:
        """Runs until _Stop or a failure is raised."""
        self._set_environment()
        self._tell("starting the edge")
        self._start_edge()
        self._tell("starting Ray")
        self._start_ray()
        _listen_for_stop()  # Ray has put a handler of its own in the place of ours
        self._tell("loading the services")
        self._start_apps()
        self._wait_for_answers()
        self._tell("ready", phase="ready")
        self._watch()

    def stop(self, in_order: bool) -> None:
        """Ends every process of the stack but this one.

        Args:
            in_order: Whether the parts are well, so that running jobs can be given back first.
        """
        self._tell("stopping", phase="stopping")
        if in_order and self._ray.started:
            self._drain_jobs()
        self._edge.stop()
        self._ray.stop()
        self._end_processes()
        if self._info.runtime_dir:
            shutil.rmtree(self._info.runtime_dir, ignore_errors=True)

    def _end_processes(self, but: int | None = None) -> None:
        token, session = self._files.token, os.getpid()
        left = stack_processes.stack_processes(token, session, self._files.root)
        stack_processes.end([one for one in left if one.pid != but], grace_seconds=2.0)

    def _drain_jobs(self) -> None:
        # Before the edge goes: a job that pulls synthetic images would take its end for a loss.
        from services.trainer.config import TrainerSettings
        from services.trainer.jobs.runner import drain_runners

        try:
            settings = TrainerSettings.load()
            if settings.drain_seconds:
                self._tell("waiting for running jobs to save a checkpoint")
                drain_runners(settings.num_runners, settings.drain_seconds)
        except Exception:
            logger.exception("the job runners were not drained; their leases will lapse")

    def _tell(self, activity: str, **changes: Any) -> None:
        if activity != self._info.activity or changes:
            logger.info("%s", activity)
            self._info = self._files.write(self._info, activity=activity, **changes)

    def _set_environment(self) -> None:
        os.environ.setdefault("CYTOSYNTH_GENERATOR_ADDRESS", f"{LOOPBACK}:{self._ports.internal}")
        # All processes write their series; the supervisor, which outlives them, serves them.
        os.environ["CYTOSYNTH_METRICS_DIR"] = str(self._metrics_dir)
        os.environ["CYTOSYNTH_METRICS_PORT"] = "0"
        os.environ.update(ray_environment(self._files.ray_token))

    def _start_edge(self) -> None:
        info = self._info
        tls = None
        if info.tls:
            assert info.ca_path is not None
            folder = info.ca_path.parent
            tls = EdgeTls(folder / "server.pem", folder / "server.key", info.ca_path)
        config = EdgeConfig(
            upstreams={name: (LOOPBACK, each.ports[0]) for name, each in self._listen.items()},
            more_ports={name: each.ports[1:] for name, each in self._listen.items()},
            port=info.port,
            host=info.host,
            admin_port=self._ports.admin,
            metrics_port=self._ports.edge_metrics,
            internal_port=self._ports.internal,
            tls=tls,
            client_certificates=info.client_certificates,
            access_log_path=str(self._files.access_log),
            max_message_bytes=self._settings.max_message_bytes,
            traces_endpoint=self._settings.traces_endpoint,
        )
        self._edge.start(config)

    def _start_ray(self) -> None:
        ports = self._ports
        metrics = self._ray.start(lambda: self._end_processes(but=self._edge.pid))
        port = self._settings.metrics_port or ports.series
        self._info = self._files.write_metrics_targets(
            self._info,
            edge=f"{LOOPBACK}:{ports.edge_metrics}",
            ray=metrics,
            services=f"{LOOPBACK}:{port}",
        )
        clear_series(self._metrics_dir)
        own = {"metrics_dir": self._metrics_dir, "metrics_host": LOOPBACK, "metrics_port": port}
        # Not before Ray's processes are started: see there.
        expose("supervisor", self._settings.model_copy(update=own))
        self._metrics = StackMetrics()
        self._ray.start_serve()

    def _start_apps(self) -> None:
        from ray import serve

        module, _, function = self._apps.partition(":")
        targets = [
            serve.RunTarget(target=app, name=name, route_prefix=None)
            for name, app in getattr(import_module(module), function)(self._listen).items()
        ]
        serve.run_many(
            targets,
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        while True:
            self._check_parts()
            applications = serve.status().applications
            for name, app in applications.items():
                if app.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                    causes = [one.message for one in app.deployments.values() if one.message]
                    raise StackFailed(f"The {name} does not start: " + "\n".join(causes))
            waiting = sorted(name for name, app in applications.items() if app.status != "RUNNING")
            if applications and not waiting:
                return
            self._tell(f"loading {', '.join(waiting)}")
            time.sleep(0.25)

    def _wait_for_answers(self) -> None:
        while True:
            self._check_parts()
            waiting = [service for service in probe_services(self._info) if not service.ready]
            if not waiting:
                return
            self._tell(f"waiting for {waiting[0].name}: {waiting[0].detail}")
            time.sleep(0.25)

    def _watch(self) -> None:
        while True:
            self._check_parts()
            self._metrics.tell(self._edge.num_restarts)
            time.sleep(0.5)

    def _check_parts(self) -> None:
        self._edge.check()
        self._ray.check()


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _listen_for_stop() -> None:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)


def _stop(signal_number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stop


def main() -> int:
    """Runs the stack of a state directory until told to stop."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--apps", default="services.launch.local_stack:build_apps")
    arguments = parser.parse_args()
    sys.stdin.read()  # until `up` has written the state
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    _listen_for_stop()
    files = StackFiles(arguments.state_dir)
    info = files.read()
    if info is None:
        logger.error("%s is missing: start the stack with 'cytosynth up'", files.state)
        return 2
    supervisor, in_order = None, False
    try:
        supervisor = Supervisor(files, info, arguments.apps)
        supervisor.run()
    except _Stop:
        logger.info("asked to stop")
        in_order = True
        return 0
    except (StackFailed, EdgeFailed, RayFailed, SettingsError, StackError) as error:
        logger.error("%s", error)
        files.failure.write_text(str(error), encoding="utf-8")
        return 1
    except Exception as error:
        logger.exception("the stack failed")
        said = str(error).strip().partition("\n")[0]
        files.failure.write_text(f"{type(error).__name__}: {said}", encoding="utf-8")
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if supervisor:
            supervisor.stop(in_order)
        files.state.unlink(missing_ok=True)
        logger.info("stopped")
    return 0


if __name__ == "__main__":
    os._exit(main())
