"""The three services and their calls, as the protos describe them."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from cytosynth.classifier.v1 import classifier_pb2
from cytosynth.generator.v1 import generator_pb2
from cytosynth.trainer.v1 import trainer_pb2

_DESCRIPTORS: dict[str, ServiceDescriptor] = {
    "generator": generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"],
    "classifier": classifier_pb2.DESCRIPTOR.services_by_name["ClassifierService"],
    "trainer": trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"],
}
SERVICES = tuple(_DESCRIPTORS)
"""Names of the services, of their applications and of their folders."""
SERVICE_NAMES = tuple(service.full_name for service in _DESCRIPTORS.values())
"""Full gRPC names, in the same order."""


def methods(service: str) -> Iterator[MethodDescriptor]:
    """All calls of a service."""
    return iter(_DESCRIPTORS[service].methods)


def is_unary(method: MethodDescriptor) -> bool:
    """Whether a call has one request and one answer."""
    return not (method.client_streaming or method.server_streaming)


def changes_nothing(method: MethodDescriptor) -> bool:
    """Whether anyone may repeat a call: it has no side effects."""
    return bool(method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)


def may_be_repeated(method: MethodDescriptor) -> bool:
    """Whether a caller that sends its idempotency key may repeat a call."""
    level = method.GetOptions().idempotency_level
    return bool(level != MethodOptions.IDEMPOTENCY_UNKNOWN)
