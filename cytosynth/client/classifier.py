"""Client of the classifier: classes of images, model versions and aliases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from cytosynth.classifier.v1 import classifier_pb2, classifier_pb2_grpc
from cytosynth.client import decode, encode
from cytosynth.client.connection import MAX_MESSAGE_BYTES, ServiceClient
from cytosynth.client.errors import (
    CytosynthError,
    FieldViolation,
    error_from_status,
    invalid_argument,
)
from cytosynth.client.image_tree import check_size, read_image
from cytosynth.client.records import Alias, AnswerContext, Classification, Model
from cytosynth.client.settings import AnswerOptions

MAX_IMAGES_PER_CALL = 256
# Below the message limit, with room for the framing of 256 images.
MAX_BYTES_PER_CALL = MAX_MESSAGE_BYTES - 1024 * 1024
CLASSIFY_SECONDS = 300.0
STREAM_SECONDS = 3600.0
PAGE_SIZE = 1000
# A service draws for at most 32 images a call, whose pictures are large.
MAX_SALIENCY_PER_CALL = 16
_IMAGE_FIELD = re.compile(r"images\[(\d+)\]")

Image = bytes | str | Path
"""An encoded image, or the path of one."""
_Loaded = tuple[str, bytes | CytosynthError]
"""Name and bytes of an image, or why it cannot be read."""


class ClassifierClient(ServiceClient):
    """Talks to the classifier service. Research use only; not a medical device."""

    @cached_property
    def _classifier(self) -> classifier_pb2_grpc.ClassifierServiceStub:
        return classifier_pb2_grpc.ClassifierServiceStub(self._connection.channel)

    def classify(
        self,
        images: Sequence[Image],
        *,
        model: str = "",
        batch_size: int = 64,
        options: AnswerOptions | None = None,
    ) -> list[Classification]:
        """Classify any number of images, in as many calls as needed.

        Args:
            images: Encoded images or paths.
            model: ``classifiers/{classifier}`` or ``aliases/{alias}``; empty:
                ``aliases/production``.
            batch_size: Most images per call, 1 to 256; with saliency at most 16 are sent.
            options: What answers are to hold; shares are estimated call by call.

        Raises:
            CytosynthError: Names the file (or the place in ``images``) that is at fault.
        """
        return [
            answer
            for batch in self.classify_batches(
                images, model=model, batch_size=batch_size, options=options
            )
            for answer in batch
        ]

    def classify_batches(
        self,
        images: Sequence[Image],
        *,
        model: str = "",
        batch_size: int = 64,
        options: AnswerOptions | None = None,
    ) -> Iterator[list[Classification]]:
        """As ``classify``, one list of answers per call."""
        for batch in _batches(images, _images_per_call(batch_size, options)):
            for _, data in batch:
                if isinstance(data, CytosynthError):
                    raise data
            answers = self._classify_batch(batch, model, options)
            # Later calls stay with the version that answered first, whatever an alias does.
            for answer in answers:
                if isinstance(answer, CytosynthError):
                    raise answer
                model = answer.model or model
            yield [answer for answer in answers if isinstance(answer, Classification)]

    def classify_each(
        self,
        images: Sequence[Image],
        *,
        model: str = "",
        batch_size: int = 64,
        options: AnswerOptions | None = None,
    ) -> Iterator[Classification | CytosynthError]:
        """Classify every readable image; yield the error of each other one.

        Args and raised errors, other than those of single images, are those of ``classify``.
        """
        for batch in _batches(images, _images_per_call(batch_size, options)):
            for answer in self._classify_batch(batch, model, options, every=True):
                if isinstance(answer, Classification):
                    model = answer.model or model
                yield answer

    def classify_stream(
        self, images: Iterable[Image], *, model: str = "", options: AnswerOptions | None = None
    ) -> Iterator[Classification]:
        """Classify images as they come; one answer per image, in order."""
        wanted = encode.message(options) if options else None

        def requests() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
            for number, image in enumerate(images):
                _, data = _load(image, number)
                if isinstance(data, CytosynthError):
                    raise data
                yield classifier_pb2.ClassifyStreamRequest(
                    model="" if number else model,
                    image=data,
                    options=None if number else wanted,
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
            context = AnswerContext()
            for reply in call:
                if reply.HasField("context"):  # in the first message only
                    context = decode.answer_context(reply.context)
                yield decode.classification(reply.classification, reply.model, context)
        except grpc.RpcError as error:
            if local_failure:
                raise local_failure[0] from None
            raise self._connection.error(error) from None
        finally:
            if call is not None:
                call.cancel()

    def _classify_batch(
        self,
        batch: Sequence[_Loaded],
        model: str,
        options: AnswerOptions | None,
        *,
        every: bool = False,
    ) -> list[Classification | CytosynthError]:
        """Yield one answer per image, with ``every`` also of refused ones.

        A server of an earlier release fails the call for it, which is repeated without the image.
        """
        wanted = encode.message(options or AnswerOptions())
        wanted.answer_each = every
        answers: dict[int, Classification | CytosynthError] = {
            place: data for place, (_, data) in enumerate(batch) if isinstance(data, CytosynthError)
        }
        while len(answers) < len(batch):
            places = [place for place in range(len(batch)) if place not in answers]
            data = [batch[place][1] for place in places]
            request = classifier_pb2.ClassifyRequest(model=model, images=data, options=wanted)  # type: ignore[arg-type]
            try:
                reply = self._connection.call(self._classifier.Classify, request, CLASSIFY_SECONDS)
            except CytosynthError as error:
                names = [batch[place][0] for place in places]
                refused_images = _refused_images(error, names) if every else {}
                if not refused_images:
                    raise _naming_images(error, dict(enumerate(names))) from None
                for number, own_error in refused_images.items():
                    answers[places[number]] = own_error
                continue
            if len(reply.classifications) != len(places):
                raise CytosynthError(
                    "DATA_LOSS", f"{len(reply.classifications)} answers for {len(places)} images"
                )
            context = decode.answer_context(reply.context)
            for number, (place, item) in enumerate(zip(places, reply.classifications, strict=True)):
                answers[place] = decode.classification(item, reply.model, context)
                if item.status.code:
                    refused = error_from_status(item.status, context.request_id)
                    answers[place] = _naming_images(refused, {number: batch[place][0]})
        return [answers[place] for place in range(len(batch))]

    def list_models(self) -> list[Model]:
        """The caller's classifiers, newest first, with the aliases that point at them."""
        pages = self._pages(self._classifier.ListModels, classifier_pb2.ListModelsRequest)
        return [decode.model(message) for page in pages for message in page.models]

    def get_model(self, name: str) -> Model:
        """One classifier by name or alias."""
        request = classifier_pb2.GetModelRequest(name=name)
        return decode.model(self._connection.call(self._classifier.GetModel, request).model)

    def set_alias(self, name: str, model: str) -> Alias:
        """Point ``aliases/{alias}`` at ``classifiers/{classifier}``."""
        request = classifier_pb2.SetAliasRequest(name=name, model=model)
        return decode.alias(self._connection.call(self._classifier.SetAlias, request).alias)

    def rollback_alias(self, name: str) -> Alias:
        """Point an alias back at its earlier classifier."""
        request = classifier_pb2.RollbackAliasRequest(name=name)
        return decode.alias(self._connection.call(self._classifier.RollbackAlias, request).alias)

    def delete_alias(self, name: str) -> None:
        """Remove an alias; the classifier behind it stays."""
        request = classifier_pb2.DeleteAliasRequest(name=name)
        self._connection.call(self._classifier.DeleteAlias, request)

    def list_aliases(self) -> list[Alias]:
        """The caller's aliases."""
        pages = self._pages(self._classifier.ListAliases, classifier_pb2.ListAliasesRequest)
        return [decode.alias(message) for page in pages for message in page.aliases]

    def _pages(self, method: Callable[..., Any], request_type: Any) -> Iterator[Any]:
        """All pages of a list; an earlier service answers with one."""
        token = ""
        while True:
            request = request_type(page_size=PAGE_SIZE, page_token=token)
            page = self._connection.call(method, request)
            yield page
            token = page.next_page_token
            if not token:
                return


def _refused_images(error: CytosynthError, names: list[str]) -> dict[int, CytosynthError]:
    """One error per image that the error of a call names."""
    refused: dict[int, CytosynthError] = {}
    for violation in error.field_violations:
        match = _IMAGE_FIELD.fullmatch(violation.field)
        if match and int(match[1]) < len(names):
            name = names[int(match[1])]
            # The remedy is that of the first.
            is_like_first = violation.description == error.field_violations[0].description
            refused[int(match[1])] = error.reworded(
                f"{name}: {violation.description}",
                error.remedy if is_like_first else "",
                [FieldViolation(name, violation.description)],
            )
    return refused


def _images_per_call(batch_size: int, options: AnswerOptions | None) -> int:
    is_slow = options is not None and options.saliency
    return min(batch_size, MAX_SALIENCY_PER_CALL) if is_slow else batch_size


def _batches(images: Sequence[Image], batch_size: int) -> Iterator[list[_Loaded]]:
    """Names and bytes in batches under both limits, loaded lazily."""
    if not 1 <= batch_size <= MAX_IMAGES_PER_CALL:
        raise invalid_argument("batch_size", f"{batch_size} is not 1 to {MAX_IMAGES_PER_CALL}")
    if not images:
        raise invalid_argument("images", "there are none", "give at least one image")
    batch: list[_Loaded] = []
    num_bytes = 0
    for number, image in enumerate(images):
        name, data = _load(image, number)
        size = len(data) if isinstance(data, bytes) else 0
        if batch and (len(batch) == batch_size or num_bytes + size > MAX_BYTES_PER_CALL):
            yield batch
            batch, num_bytes = [], 0
        batch.append((name, data))
        num_bytes += size
    yield batch


def _load(image: Image, number: int) -> _Loaded:
    name = f"images[{number}]" if isinstance(image, bytes) else str(image)
    try:
        if isinstance(image, bytes):
            check_size(name, len(image))
            return name, image
        return name, read_image(Path(image))
    except CytosynthError as error:
        return name, error


def _naming_images(error: CytosynthError, names: Mapping[int, str]) -> CytosynthError:
    """The error with ``images[3]`` replaced by the caller's name for it."""

    def name(match: re.Match[str]) -> str:
        return names.get(int(match[1]), match[0])

    violations = [
        FieldViolation(_IMAGE_FIELD.sub(name, violation.field), violation.description)
        for violation in error.field_violations
    ]
    return error.reworded(_IMAGE_FIELD.sub(name, error.message), error.remedy, violations)
