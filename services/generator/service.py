"""gRPC handlers of the generator: decode, one call, encode."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable

from cytosynth.common.v1 import image_pb2
from cytosynth.generator.v1 import generator_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.models import diffusion_bases
from services.common.resource_names import ADAPTERS, parse
from services.common.rpc.handlers import Call, server_stream, unary
from services.common.store.artifacts import ArtifactStore
from services.generator.adapter_manifest import AdapterRef, describe_adapter
from services.generator.config import GeneratorSettings
from services.generator.plan import SynthesisPlan, SyntheticImage, make_execution, make_plan
from services.generator.presets import PRESETS, preset_of
from services.generator.request import SynthesisRequest

_FORMAT_PREFIX = "IMAGE_FORMAT_"
_FORMATS = {
    code: image_pb2.ImageFormat.Name(code).removeprefix(_FORMAT_PREFIX)
    for code in image_pb2.ImageFormat.values()
} | {image_pb2.IMAGE_FORMAT_UNSPECIFIED: "PNG"}
_INTERACTIVE = {
    pb.PRIORITY_UNSPECIFIED: None,
    pb.PRIORITY_INTERACTIVE: True,
    pb.PRIORITY_BULK: False,
}

StreamImages = Callable[[SynthesisPlan], AsyncGenerator[SyntheticImage, None]]
"""Gives a plan's images from its first index on, in order."""


class GeneratorService:
    """The handlers; ``stream_images`` gives the images."""

    def __init__(self, settings: GeneratorSettings, stream_images: StreamImages) -> None:
        self._settings, self._stream_images = settings, stream_images
        self._store = ArtifactStore(settings.store_uri)

    @server_stream
    async def Synthesize(
        self, request: pb.SynthesizeRequest, call: Call
    ) -> AsyncGenerator[pb.SynthesizeResponse, None]:
        """Stream the images asked for, in index order."""
        plan = await asyncio.to_thread(self._plan, request, call.tenant)
        manifest = plan.manifest_json()
        digest = hashlib.sha256(manifest.encode()).hexdigest()
        async with contextlib.aclosing(self._stream_images(plan)) as images:
            async for image in images:
                yield pb.SynthesizeResponse(
                    index=image.index,
                    class_id=image.class_id,
                    image_seed=image.image_seed,
                    image=image.data,
                    image_format=_FORMAT_PREFIX + plan.image_format,
                    width=image.width,
                    height=image.height,
                    manifest_digest=digest,
                    manifest_json=manifest if image.index == plan.first_index else "",
                )

    @unary(pb.GetCapabilitiesResponse)
    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, call: Call
    ) -> pb.GetCapabilitiesResponse:
        """Give bases, presets and limits."""
        return await asyncio.to_thread(self._capabilities)

    def _plan(self, request: pb.SynthesizeRequest, tenant: str) -> SynthesisPlan:
        adapter: AdapterRef | None = None
        if request.adapter:
            adapter_id = parse(ADAPTERS, request.adapter, "adapter")
            adapter = describe_adapter(self._store, tenant, adapter_id)
        default = adapter.base if adapter else self._settings.default_base
        base = diffusion_bases.resolve_base(request.base or default, self._settings.models_dir)
        return make_plan(
            _decode(request),
            tenant,
            base,
            adapter,
            make_execution(self._settings),
            self._settings.generator_max_num_images,
            self._settings.generator_interactive_num_images,
        )

    def _capabilities(self) -> pb.GetCapabilitiesResponse:
        names = diffusion_bases.list_bases(self._settings.models_dir)
        default = diffusion_bases.resolve_base(
            self._settings.default_base, self._settings.models_dir
        )
        presets = {name: preset_of(name, default) for name in PRESETS}
        found = [diffusion_bases.resolve_base(name, self._settings.models_dir) for name in names]
        return pb.GetCapabilitiesResponse(
            bases=names,
            default_base=self._settings.default_base,
            presets={
                name: pb.SamplerSettings(
                    preset=name,
                    num_steps=preset.num_steps,
                    guidance_scale=preset.guidance_scale,
                    scheduler=preset.scheduler,
                    guidance_start=preset.guidance_start,
                    guidance_stop=preset.guidance_stop,
                    decoder=preset.decoder,
                )
                for name, preset in presets.items()
            },
            max_num_images=self._settings.generator_max_num_images,
            batch_size=self._settings.generator_num_slots,
            image_size={base.name: base.image_size_px for base in found},
            max_num_interactive_images=self._settings.generator_interactive_num_images,
        )


def _decode(request: pb.SynthesizeRequest) -> SynthesisRequest:
    sampler = request.sampler
    if request.image_format not in _FORMATS:
        problem = f"is {request.image_format}, not an image format"
        raise InvalidArgument(
            "image_format", problem, f"send one of {', '.join(dict.fromkeys(_FORMATS.values()))}"
        )
    if request.priority not in _INTERACTIVE:
        problem = f"is {request.priority}, not a priority"
        raise InvalidArgument("priority", problem, "send INTERACTIVE or BULK, or leave it out")
    return SynthesisRequest(
        class_counts=[(entry.class_id, entry.num_images) for entry in request.class_counts],
        seed=request.seed,
        first_index=request.first_index,
        preset=sampler.preset,
        num_steps=sampler.num_steps if sampler.HasField("num_steps") else None,
        guidance_scale=sampler.guidance_scale if sampler.HasField("guidance_scale") else None,
        scheduler=sampler.scheduler,
        guidance_start=sampler.guidance_start if sampler.HasField("guidance_start") else None,
        guidance_stop=sampler.guidance_stop if sampler.HasField("guidance_stop") else None,
        decoder=sampler.decoder,
        image_format=_FORMATS[request.image_format],
        interactive=_INTERACTIVE[request.priority],
    )
