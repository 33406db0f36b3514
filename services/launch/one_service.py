"""One service in one container, without KubeRay.

python -m services.launch.one_service generator|classifier|trainer

Serve's port has neither TLS nor tenants: publish the edge, not this.
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
from services.common.rpc.reflection import GRPC_SERVICER_FUNCTIONS
from services.launch.ray_environment import ray_environment
from services.launch.service_settings import settings_class

_OBJECT_STORE_BYTES = 128 * 1024 * 1024


def main() -> None:
    """Runs until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--host", default="0.0.0.0")
    port = os.environ.get("CYTOSYNTH_SERVE_PORT", "9000")
    parser.add_argument("--port", type=int, default=port)
    arguments = parser.parse_args()
    settings = settings_class(arguments.service).load_for(parser)
    token = Path(tempfile.mkdtemp()) / "token"
    os.environ.update(ray_environment(token, arguments.host, settings.max_message_bytes))
    # Ray reads its environment when it is imported.
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    stop = threading.Event()
    ray.init(
        address="local",
        num_cpus=16,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=arguments.port + 1),
        grpc_options=gRPCOptions(
            port=arguments.port, grpc_servicer_functions=list(GRPC_SERVICER_FUNCTIONS)
        ),
    )
    app = import_module(f"services.{arguments.service}.app").build_app(settings)
    serve.run(app, name=arguments.service, route_prefix=f"/{arguments.service}")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
