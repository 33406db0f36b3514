"""One real call to each service through the edge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc
from cytosynth.service_methods import SERVICES
from cytosynth.stack.state import StackInfo
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc


@dataclass(frozen=True)
class ServiceStatus:
    """One service as seen through the edge just now."""

    name: str
    ready: bool
    detail: str


_PROBES: dict[str, Callable[[grpc.Channel, float], object]] = {
    "generator": lambda channel, seconds: generator_pb2_grpc.GeneratorServiceStub(
        channel
    ).GetCapabilities(generator_pb2.GetCapabilitiesRequest(), timeout=seconds),
    "classifier": lambda channel, seconds: classifier_pb2_grpc.ClassifierServiceStub(
        channel
    ).ListAliases(classifier_pb2.ListAliasesRequest(), timeout=seconds),
    "trainer": lambda channel, seconds: trainer_pb2_grpc.TrainerServiceStub(channel).ListJobs(
        trainer_pb2.ListJobsRequest(), timeout=seconds
    ),
}


_OPTIONS = [("grpc.enable_http_proxy", 0)]
"""The edge is on this machine, whatever proxy the environment names."""


def open_channel(info: StackInfo) -> grpc.Channel:
    """A channel to the edge, with its development certificates for TLS."""
    if not info.tls:
        return grpc.insecure_channel(info.address, _OPTIONS)
    ca, key, certificate = (
        path.read_bytes() if path else None
        for path in (info.ca_path, info.client_key_path, info.client_certificate_path)
    )
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(info.address, credentials, _OPTIONS)


def probe_services(info: StackInfo, timeout_seconds: float = 5.0) -> tuple[ServiceStatus, ...]:
    """Calls each service once; a failed call means not ready."""
    found = []
    with open_channel(info) as channel:
        for name in SERVICES:
            try:
                _PROBES[name](channel, timeout_seconds)
                found.append(ServiceStatus(name, True, "ready"))
            except grpc.RpcError as error:
                detail = f"{error.code().name}: {error.details()}"
                found.append(ServiceStatus(name, False, detail))
    return tuple(found)
