"""Sends a dataset: header, images, final message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import grpc

from cytosynth.client.connection import Connection, retry_delay
from cytosynth.client.errors import CytosynthError
from cytosynth.client.image_tree import ImageFile, read_image
from cytosynth.trainer.v1 import trainer_pb2, trainer_pb2_grpc

UPLOAD_SECONDS = 3600.0
MAX_TRIES = 4

OnUpload = Callable[[int, int], None]
"""Called with images sent and images in all."""


def upload(
    connection: Connection,
    stub: trainer_pb2_grpc.TrainerServiceStub,
    header: trainer_pb2.DatasetHeader,
    images: Sequence[ImageFile],
    on_progress: OnUpload | None = None,
) -> trainer_pb2.Dataset:
    """Upload and return the dataset.

    A connection that breaks is tried again from the start: the header's idempotency key keeps
    that from making two datasets. An interrupted upload keeps nothing.

    Raises:
        CytosynthError: Names the file where a file is at fault.
    """
    for num_failures in range(1, MAX_TRIES + 1):
        try:
            return _upload_once(connection, stub, header, images, on_progress)
        except CytosynthError as error:
            if error.code != "UNAVAILABLE" or num_failures == MAX_TRIES or connection.closed:
                raise
            connection.pause(max(retry_delay(num_failures), error.retry_after_seconds))
    raise AssertionError("unreachable")


def _upload_once(
    connection: Connection,
    stub: trainer_pb2_grpc.TrainerServiceStub,
    header: trainer_pb2.DatasetHeader,
    images: Sequence[ImageFile],
    on_progress: OnUpload | None,
) -> trainer_pb2.Dataset:
    local_failure: list[Exception] = []

    def requests() -> Iterator[trainer_pb2.UploadDatasetRequest]:
        # Runs in a thread of gRPC's, which would end the stream as if it were complete.
        try:
            yield from _requests(header, images, on_progress)
        except Exception as error:
            local_failure.append(error)
            raise

    try:
        call = stub.UploadDataset.future(
            requests(),
            timeout=connection.timeout_seconds or UPLOAD_SECONDS,
            metadata=connection.metadata,
        )
    except ValueError:
        raise connection.closed_error() from None
    try:
        response: trainer_pb2.UploadDatasetResponse = call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        if local_failure:
            raise local_failure[0] from None
        if isinstance(error, grpc.FutureCancelledError):
            raise connection.closed_error() from None
        raise connection.error(error) from None
    finally:
        call.cancel()  # Ctrl-C must not leave the rest of the upload running.
    return response.dataset


def _requests(
    header: trainer_pb2.DatasetHeader, images: Sequence[ImageFile], on_progress: OnUpload | None
) -> Iterator[trainer_pb2.UploadDatasetRequest]:
    yield trainer_pb2.UploadDatasetRequest(header=header)
    for num_sent, image in enumerate(images):
        if on_progress:
            on_progress(num_sent, len(images))
        yield trainer_pb2.UploadDatasetRequest(
            image=trainer_pb2.DatasetImage(
                class_id=image.class_id,
                file_name=image.file_name,
                patient_id=image.patient_id,
                data=read_image(image.path, image.file_name),
            )
        )
    if on_progress:
        on_progress(len(images), len(images))
    yield trainer_pb2.UploadDatasetRequest(commit=trainer_pb2.DatasetCommit(num_images=len(images)))
