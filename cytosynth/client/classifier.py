"""Client of the classifier: classes of images, model versions and aliases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import grpc

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.client import decode
from cytosynth.client.connection import MAX_MESSAGE_BYTES, ServiceClient
from cytosynth.client.errors import CytosynthError, invalid_argument
from cytosynth.client.image_tree import check_size, read_image
from cytosynth.client.records import Alias, Classification, Model

MAX_IMAGES_PER_CALL = 256
# Below the message limit, with room for the framing of 256 images.
MAX_BYTES_PER_CALL = MAX_MESSAGE_BYTES - 1024 * 1024
CLASSIFY_SECONDS = 300.0
STREAM_SECONDS = 3600.0
_IMAGE_FIELD = re.compile(r"images\[(\d+)\]")

Image = bytes | str | Path
"""An encoded image, or the path of one."""


class ClassifierClient(ServiceClient):
    """Talks to the classifier service. Research use only; not a medical device."""

    @cached_property
    def _classifier(self) -> classifier_pb2_grpc.ClassifierServiceStub:
        return classifier_pb2_grpc.ClassifierServiceStub(self._connection.channel)

    def classify(
        self, images: Sequence[Image], *, model: str = "", batch_size: int = 64
    ) -> list[Classification]:
        """Classify any number of images, as many calls as the message limit asks for.

        Args:
            images: Encoded images or paths.
            model: ``classifiers/{classifier}`` or ``aliases/{alias}``; empty:
                ``aliases/production``.
            batch_size: Most images per call, 1 to 256.

        Raises:
            CytosynthError: Names the file (or the place in ``images``) that is at fault.
        """
        return [
            answer
            for batch in self.classify_batches(images, model=model, batch_size=batch_size)
            for answer in batch
        ]

    def classify_batches(
        self, images: Sequence[Image], *, model: str = "", batch_size: int = 64
    ) -> Iterator[list[Classification]]:
        """As ``classify``, one list per call, so that results can be shown as they come."""
        if not 1 <= batch_size <= MAX_IMAGES_PER_CALL:
            raise invalid_argument("batch_size", f"{batch_size} is not 1 to {MAX_IMAGES_PER_CALL}")
        if not images:
            raise invalid_argument("images", "there are none", "give at least one image")
        for names, batch in _batches(images, batch_size):
            request = classifier_pb2.ClassifyRequest(model=model, images=batch)
            try:
                reply = self._connection.call(self._classifier.Classify, request, CLASSIFY_SECONDS)
            except CytosynthError as error:
                raise _naming_images(error, names) from None
            if len(reply.classifications) != len(batch):
                raise CytosynthError(
                    "DATA_LOSS", f"{len(reply.classifications)} answers for {len(batch)} images"
                )
            # Later calls stay with the version that answered first, whatever an alias does.
            model = reply.model or model
            yield [decode.classification(item, reply.model) for item in reply.classifications]

    def classify_stream(
        self, images: Iterable[Image], *, model: str = ""
    ) -> Iterator[Classification]:
        """Classify images as they come; one answer per image, in order."""

        def requests() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
            for number, image in enumerate(images):
                _, data = _load(image, number)
                yield classifier_pb2.ClassifyStreamRequest(
                    model="" if number else model, image=data
                )

        local_failure: list[Exception] = []

        def guarded() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
            try:
                yield from requests()
            except Exception as error:
                local_failure.append(error)
                raise

        call = None
        try:
            call = self._classifier.ClassifyStream(
                guarded(),
                timeout=self._connection.timeout_seconds or STREAM_SECONDS,
                metadata=self._connection.metadata,
            )
            for reply in call:
                yield decode.classification(reply.classification, reply.model)
        except grpc.RpcError as error:
            if local_failure:
                raise local_failure[0] from None
            raise self._connection.error(error) from None
        finally:
            if call is not None:
                call.cancel()

    def list_models(self) -> list[Model]:
        """The caller's classifiers, newest first, with the aliases that point at them."""
        request = classifier_pb2.ListModelsRequest()
        reply = self._connection.call(self._classifier.ListModels, request)
        return [decode.model(message) for message in reply.models]

    def get_model(self, name: str) -> Model:
        """One classifier by name or alias."""
        request = classifier_pb2.GetModelRequest(name=name)
        return decode.model(self._connection.call(self._classifier.GetModel, request).model)

    def set_alias(self, name: str, model: str) -> Alias:
        """Point ``aliases/{alias}`` at ``classifiers/{classifier}``."""
        request = classifier_pb2.SetAliasRequest(name=name, model=model)
        return decode.alias(self._connection.call(self._classifier.SetAlias, request).alias)

    def rollback_alias(self, name: str) -> Alias:
        """Point an alias back at what it meant before."""
        request = classifier_pb2.RollbackAliasRequest(name=name)
        return decode.alias(self._connection.call(self._classifier.RollbackAlias, request).alias)

    def list_aliases(self) -> list[Alias]:
        """The caller's aliases."""
        request = classifier_pb2.ListAliasesRequest()
        reply = self._connection.call(self._classifier.ListAliases, request)
        return [decode.alias(message) for message in reply.aliases]


def _batches(images: Sequence[Image], batch_size: int) -> Iterator[tuple[list[str], list[bytes]]]:
    """Names and bytes, in batches under both limits; only one batch is in memory at a time."""
    names: list[str] = []
    batch: list[bytes] = []
    num_bytes = 0
    for number, image in enumerate(images):
        name, data = _load(image, number)
        if batch and (len(batch) == batch_size or num_bytes + len(data) > MAX_BYTES_PER_CALL):
            yield names, batch
            names, batch, num_bytes = [], [], 0
        names.append(name)
        batch.append(data)
        num_bytes += len(data)
    yield names, batch


def _load(image: Image, number: int) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        check_size(f"images[{number}]", len(image))
        return f"images[{number}]", image
    return str(image), read_image(Path(image))


def _naming_images(error: CytosynthError, names: list[str]) -> CytosynthError:
    """The error with ``images[3]`` of this call replaced by the caller's name for it."""

    def name(match: re.Match[str]) -> str:
        place = int(match[1])
        return names[place] if place < len(names) else match[0]

    return CytosynthError(
        error.code,
        _IMAGE_FIELD.sub(name, error.message),
        field_violations=[
            type(violation)(_IMAGE_FIELD.sub(name, violation.field), violation.description)
            for violation in error.field_violations
        ],
        remedy=error.remedy,
        retry_after_seconds=error.retry_after_seconds,
        request_id=error.request_id,
    )
