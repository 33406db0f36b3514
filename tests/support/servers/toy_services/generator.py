"""A text generator: image i of class c is bytes ``c:i``.

The seed of image i is ``1000 + i``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from cytosynth.common.v1 import image_pb2
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc
from services.common.errors import InvalidArgument
from tests.support.servers.toy_services.failure import fail

MANIFEST = {"base": "toy", "num_steps": 2}
MANIFEST_JSON = json.dumps(MANIFEST)
MANIFEST_DIGEST = hashlib.sha256(MANIFEST_JSON.encode()).hexdigest()


@dataclass
class Break:
    """Ends a stream after so many images."""

    num_images: int
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE


class ToyGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    """Generates text; ``breaks`` are used up by one call each."""

    def __init__(self) -> None:
        self.requests: list[generator_pb2.SynthesizeRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.breaks: list[Break] = []
        self.skip = self.double = -1
        self.new_manifest_from = -1
        self.class_ids = {"blast", "mono", "lymph"}

    def Synthesize(
        self, request: generator_pb2.SynthesizeRequest, context: grpc.ServicerContext
    ) -> Iterator[generator_pb2.SynthesizeResponse]:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        broken = self.breaks.pop(0) if self.breaks else None
        class_ids: list[str] = []
        for number, entry in enumerate(request.class_counts):
            if entry.num_images < 1:
                field_ = f"class_counts[{number}].num_images"
                fail(context, InvalidArgument(field_, f"is {entry.num_images}", "send 1 or more"))
            if entry.class_id not in self.class_ids:
                fail(context, InvalidArgument("class_counts", f"no class {entry.class_id}", ""))
            class_ids += [entry.class_id] * entry.num_images
        for num_sent, index in enumerate(range(request.first_index, len(class_ids))):
            if broken and num_sent == broken.num_images:
                context.abort(broken.code, "the replica is gone")
            if index == self.skip:
                continue
            for _ in range(2 if index == self.double else 1):
                yield self._image(index, class_ids[index], first=num_sent == 0)
        if broken and broken.num_images >= len(class_ids) - request.first_index:
            context.abort(broken.code, "the replica is gone")

    def _image(self, index: int, class_id: str, first: bool) -> generator_pb2.SynthesizeResponse:
        is_new = 0 <= self.new_manifest_from <= index
        return generator_pb2.SynthesizeResponse(
            index=index,
            class_id=class_id,
            image_seed=1000 + index,
            image=f"{class_id}:{index}".encode(),
            image_format=image_pb2.IMAGE_FORMAT_PNG,
            width=64,
            height=48,
            manifest_digest="f" * 64 if is_new else MANIFEST_DIGEST,
            manifest_json=MANIFEST_JSON if first else "",
        )

    def GetCapabilities(
        self, request: generator_pb2.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> generator_pb2.GetCapabilitiesResponse:
        return generator_pb2.GetCapabilitiesResponse(
            bases=["toy"],
            default_base="toy",
            presets={"fast": generator_pb2.SamplerSettings(num_steps=2, guidance_scale=1.5)},
            max_num_images=1000,
            batch_size=4,
            image_size={"toy": 64},
        )
