"""Receives a dataset from a client's stream.

Without the final message nothing is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from cytosynth.trainer.v1 import trainer_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.store.artifacts import ArtifactStore
from services.trainer.config import TrainerSettings
from services.trainer.datasets.refusals import Refusals
from services.trainer.datasets.upload import DatasetUpload
from services.trainer.messages import header_from

_AGAIN = "send the whole upload again, ending with commit"


async def receive_dataset(
    requests: AsyncIterator[pb.UploadDatasetRequest],
    store: ArtifactStore,
    tenant: str,
    settings: TrainerSettings,
) -> dict[str, Any]:
    """Reads one upload to its commit.

    Returns:
        The dataset's manifest.

    Raises:
        InvalidArgument: If a message is out of order, images are bad, or the stream ends or
            stays silent before its commit. Nothing is kept then. Bad images are named together,
            when the upload ends or ``MAX_REFUSED`` of them came.
        ResourceExhausted: If the dataset is over its limits.
    """
    first = await _next(requests, settings, 0)
    if first.WhichOneof("part") != "header":
        raise InvalidArgument("header", "is not the first message", "send the header first")
    refusals = Refusals()
    with DatasetUpload(store, tenant, header_from(first.header), settings) as upload:
        while True:
            try:
                request = await _next(requests, settings, upload.num_images)
            except InvalidArgument:
                refusals.raise_any()
                raise
            match request.WhichOneof("part"):
                case "image":
                    image = request.image
                    with refusals.collecting():
                        await asyncio.to_thread(
                            upload.add,
                            image.class_id,
                            image.file_name,
                            image.patient_id,
                            image.data,
                        )
                case "commit":
                    refusals.raise_any()
                    return await asyncio.to_thread(upload.commit, request.commit.num_images)
                case "header":
                    raise InvalidArgument("header", "came twice", "send one header, first")
                case _:
                    raise InvalidArgument("part", "is not set", "send an image or the commit")


async def _next(
    requests: AsyncIterator[pb.UploadDatasetRequest], settings: TrainerSettings, num_images: int
) -> pb.UploadDatasetRequest:
    try:
        return await asyncio.wait_for(anext(requests), settings.upload_idle_seconds)
    except StopAsyncIteration:
        problem = f"the upload ended without it, after {num_images} images; nothing was kept"
    except TimeoutError:
        seconds = settings.upload_idle_seconds
        problem = f"nothing came for {seconds:g} s, after {num_images} images; nothing was kept"
    raise InvalidArgument("commit", problem, _AGAIN)
