"""One service in one container, without KubeRay.

python -m services.launch.one_service generator|classifier|trainer

Its port has neither TLS nor tenants: publish the edge, not this.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from importlib import import_module
from pathlib import Path

from cytosynth.service_methods import SERVICES
from services.common.rpc.server import DEFAULT_PORT, PORT_VARIABLE, Listen
from services.launch.ray_environment import ray_environment
from services.launch.service_settings import settings_class

_OBJECT_STORE_BYTES = 128 * 1024 * 1024


def main() -> None:
    """Runs until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--host", default="0.0.0.0")
    port = os.environ.get(PORT_VARIABLE, DEFAULT_PORT)
    parser.add_argument("--port", type=int, default=port)
    arguments = parser.parse_args()
    settings = settings_class(arguments.service).load_for(parser)
    token = Path(tempfile.mkdtemp()) / "token"
    os.environ.update(ray_environment(token))
    # Ray reads its environment when it is imported.
    import ray
    from ray import serve

    stop = threading.Event()
    ray.init(
        address="local",
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve.start(proxy_location="Disabled")
    listen = Listen(arguments.host, (arguments.port,))
    app = import_module(f"services.{arguments.service}.app").build_app(settings, listen)
    serve.run(app, name=arguments.service, route_prefix=None)
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
