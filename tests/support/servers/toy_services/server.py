"""A real gRPC server with three tiny services of predictable answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from cytosynth.classifier.v1 import classifier_pb2_grpc
from cytosynth.generator.v1 import generator_pb2_grpc
from cytosynth.trainer.v1 import trainer_pb2_grpc
from tests.support.servers.toy_services.classifier import ToyClassifier
from tests.support.servers.toy_services.generator import ToyGenerator
from tests.support.servers.toy_services.trainer import ToyTrainer

MESSAGE_LIMIT = 32 * 1024 * 1024
Cyto = Callable[..., tuple[int, str, str]]
"""Runs a command against the toy services; gives exit code, stdout and stderr."""


class ToyServices:
    """The three services at one address, restartable on the same port."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._credentials = credentials
        self.generator = ToyGenerator()
        self.trainer = ToyTrainer()
        self.classifier = ToyClassifier()
        self._server: grpc.Server | None = None
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        limits = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ]
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
        generator_pb2_grpc.add_GeneratorServiceServicer_to_server(self.generator, self._server)
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self.trainer, self._server)
        classifier_pb2_grpc.add_ClassifierServiceServicer_to_server(self.classifier, self._server)
        address = f"127.0.0.1:{self._port}"
        if self._credentials:
            self._port = self._server.add_secure_port(address, self._credentials)
        else:
            self._port = self._server.add_insecure_port(address)
        self._server.start()

    def stop(self) -> None:
        if self._server:
            self._server.stop(None).wait()
            self._server = None


@contextmanager
def toy_services(credentials: grpc.ServerCredentials | None = None) -> Iterator[ToyServices]:
    """Run the toy services for the length of a ``with`` block."""
    services = ToyServices(credentials)
    try:
        yield services
    finally:
        services.trainer.hold.set()
        services.stop()
