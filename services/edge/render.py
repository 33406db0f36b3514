"""Renders the edge's Envoy configuration for stacks, tests and clusters.

python -m services.edge.render --port 50051 --upstream generator=gen-svc:9000 ... > envoy.yaml
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cytosynth.service_methods import SERVICES, changes_nothing, is_unary, methods

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class EdgeTls:
    """PEM files of the listener."""

    certificate: Path
    key: Path
    client_ca: Path
    """Authority that signs client certificates."""


@dataclass(frozen=True)
class EdgeConfig:
    """Settings of one edge."""

    upstreams: dict[str, tuple[str, int]]
    """Service name to (host, port) of its gRPC server."""
    port: int
    more_ports: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Further ports of a service's hosts; health checks then tell which of all answer."""
    host: str = "127.0.0.1"
    admin_port: int = 9901
    """Port of Envoy's own statistics, on loopback."""
    metrics_port: int | None = None
    """A listener for Prometheus that serves ``/stats/prometheus`` and nothing else; None: none."""
    metrics_host: str = "127.0.0.1"
    internal_port: int | None = None
    """A second, plaintext listener that trusts the tenant header, for the services."""
    internal_host: str = "127.0.0.1"
    """Its address; off loopback, a NetworkPolicy must keep clients away."""
    tls: EdgeTls | None = None
    client_certificates: Literal["none", "optional", "required"] = "none"
    access_log_path: str = "/dev/stdout"
    max_message_bytes: int = 32 * 1024 * 1024
    calls_per_second: int = 500
    """Rate above which calls are RESOURCE_EXHAUSTED; bursts may be double."""
    unary_timeout_seconds: int = 120
    traces_endpoint: str = ""
    """``http://host:port`` of an OTLP gRPC collector for the edge's spans; empty: none."""


def repeatable_paths(service: str) -> list[str]:
    """Paths of the calls of a service that the edge may repeat.

    A call that is safe to repeat by its idempotency key alone is left to its client: the edge
    does not see whether the key was sent.
    """
    return [
        f"/{method.containing_service.full_name}/{method.name}"
        for method in methods(service)
        if is_unary(method) and changes_nothing(method)
    ]


def render(config: EdgeConfig) -> str:
    """The Envoy configuration as YAML.

    Raises:
        ValueError: an upstream is missing or unknown, client certificates without TLS, or the
            traces' endpoint is malformed.
    """
    if set(config.upstreams) != set(SERVICES):
        raise ValueError(f"upstreams must name {', '.join(SERVICES)}; got {[*config.upstreams]}")
    if config.client_certificates != "none" and config.tls is None:
        raise ValueError("client_certificates needs tls")
    environment = Environment(
        loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["quoted"] = quoted
    limit = str(config.max_message_bytes)
    services = [
        {
            "name": name,
            "package": f"cytosynth.{name}.v1",
            "repeatable_paths": repeatable_paths(name),
            "host": config.upstreams[name][0],
            "ports": (config.upstreams[name][1], *config.more_ports.get(name, ())),
            "full_name": next(methods(name)).containing_service.full_name,
        }
        for name in SERVICES
    ]
    values = {name: getattr(config, name) for name in EdgeConfig.__dataclass_fields__}
    values |= {
        "services": services,
        "traces": _host_and_port(config.traces_endpoint),
        "request_id_lua": (FOLDER / "request_id.lua").read_text(),
        "deadline_lua": (FOLDER / "deadline.lua").read_text(),
        "tenant_lua": (FOLDER / "tenant.lua").read_text().replace("@MAX_MESSAGE_BYTES@", limit),
    }
    return environment.get_template("envoy.yaml.j2").render(values)


def quoted(text: object) -> str:
    """A double-quoted YAML scalar, whatever characters a path or a name has."""
    return '"' + "".join(_escaped(character) for character in str(text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _host_and_port(endpoint: str) -> dict[str, str | int] | None:
    if not endpoint:
        return None
    url = urlsplit(endpoint)
    if url.scheme != "http" or not url.hostname or not url.port:
        raise ValueError(f"traces_endpoint is {endpoint!r}; it must be http://host:port")
    return {"host": url.hostname, "port": url.port}


def main() -> None:
    """Prints the configuration for the given upstreams."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=50051)
    parser.add_argument("--admin-port", type=int, default=9901)
    parser.add_argument("--metrics-port", type=int, help="serve /stats/prometheus here")
    parser.add_argument("--metrics-host", default="0.0.0.0")
    parser.add_argument("--internal-port", type=int)
    parser.add_argument("--internal-host", default="127.0.0.1")
    parser.add_argument(
        "--upstream", action="append", required=True, metavar="SERVICE=HOST:PORT[-PORT]", default=[]
    )
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--client-ca", type=Path)
    parser.add_argument("--client-certificates", choices=["none", "optional", "required"])
    parser.add_argument("--traces-endpoint", default="", metavar="http://HOST:PORT")
    arguments = parser.parse_args()
    upstreams, more_ports = {}, {}
    for upstream in arguments.upstream:
        name, _, address = upstream.partition("=")
        host, _, ports = address.rpartition(":")
        first, _, last = ports.partition("-")
        if not host or not first.isdigit() or not (last or first).isdigit():
            parser.error(f"--upstream {upstream}: expected SERVICE=HOST:PORT or HOST:FIRST-LAST")
        upstreams[name] = (host, int(first))
        more_ports[name] = tuple(range(int(first) + 1, int(last or first) + 1))
    tls_files = (arguments.certificate, arguments.key, arguments.client_ca)
    if any(tls_files) and not all(tls_files):
        parser.error("--certificate, --key and --client-ca belong together")
    config = EdgeConfig(
        upstreams=upstreams,
        more_ports=more_ports,
        host=arguments.host,
        port=arguments.port,
        admin_port=arguments.admin_port,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
        internal_port=arguments.internal_port,
        internal_host=arguments.internal_host,
        tls=EdgeTls(*tls_files) if all(tls_files) else None,
        client_certificates=arguments.client_certificates
        or ("required" if all(tls_files) else "none"),
        traces_endpoint=arguments.traces_endpoint,
    )
    try:
        sys.stdout.write(render(config))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
