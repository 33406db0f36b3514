"""Client of the generator: synthetic cells as one unbroken stream."""

from __future__ import annotations

import bisect
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import grpc

from cytosynth.client import encode
from cytosynth.client.connection import ServiceClient, retry_delay
from cytosynth.client.deprecated import settings_or_keywords
from cytosynth.client.errors import CytosynthError
from cytosynth.client.settings import SynthesisSettings
from cytosynth.generator.v1 import generator_pb2, generator_pb2_grpc

log = logging.getLogger(__name__)

# A stream that lives longer is asked for again at the next index.
STREAM_SECONDS = 600.0
# In a row, without an image between them: before the first image, and once images have come, when
# it is long enough (five minutes) to sit through a restart of the whole stack.
MAX_FAILURES = 10
MAX_FAILURES_UNDER_WAY = 66
# What a lost replica, a restarted edge or a closed connection looks like from here.
_BROKEN = frozenset({"UNAVAILABLE", "INTERNAL", "ABORTED", "UNKNOWN", "CANCELLED"})


@dataclass(frozen=True)
class SyntheticImage:
    """One synthetic cell and where it came from.

    Attributes:
        index: Place in the request, from 0.
        class_id: Class that was asked for.
        image_seed: The image's own seed, 0 to 2^64 - 1.
        data: The encoded file.
        width: Pixels.
        height: Pixels.
        manifest_digest: SHA-256 (hex) of the manifest.
        manifest: Base, adapter and sampler settings of the image.
        image_format: ``png``, ``jpeg`` or ``webp``.
    """

    index: int
    class_id: str
    image_seed: int
    data: bytes = field(repr=False)
    width: int
    height: int
    manifest_digest: str
    manifest: Mapping[str, Any] = field(repr=False)
    image_format: str = "png"


@dataclass(frozen=True)
class Capabilities:
    """What a generator offers; ``presets`` holds each preset's settings by name."""

    bases: tuple[str, ...]
    default_base: str
    presets: Mapping[str, Mapping[str, Any]]
    max_num_images: int
    batch_size: int
    image_size: Mapping[str, int]


class GeneratorClient(ServiceClient):
    """Talks to the generator service.

    Args:
        address: ``host:port`` of the edge.
        credentials: TLS credentials; None for plaintext.
        tenant: Caller's tenant where no client certificate names one.
        timeout_seconds: Longest wait for the next image; None: 600 s.
    """

    @cached_property
    def _generator(self) -> generator_pb2_grpc.GeneratorServiceStub:
        return generator_pb2_grpc.GeneratorServiceStub(self._connection.channel)

    def capabilities(self) -> Capabilities:
        """Bases, presets and limits of this server."""
        reply = self._connection.call(
            self._generator.GetCapabilities, generator_pb2.GetCapabilitiesRequest()
        )
        return Capabilities(
            bases=tuple(reply.bases),
            default_base=reply.default_base,
            presets={name: _settings_dict(reply.presets[name]) for name in sorted(reply.presets)},
            max_num_images=reply.max_num_images,
            batch_size=reply.batch_size,
            image_size=dict(reply.image_size),
        )

    def synthesize(
        self,
        class_counts: Mapping[str, int],
        settings: SynthesisSettings | None = None,
        *,
        first_index: int = 0,
        max_failures: int | None = None,
        **deprecated: Any,
    ) -> Iterator[SyntheticImage]:
        """Stream images from ``first_index`` to the end, in order, each exactly once.

        A broken stream is resumed at the next index, after 0.2 s, 0.4 s … 5 s. Closing the
        iterator cancels the work on the server.

        Args:
            class_counts: Images per class; the index runs through the classes in this order.
            settings: Adapter, seed, sampler, priority and image format.
            first_index: Index of the first image wanted, from 0.
            max_failures: Failures in a row, without an image between them, that end the stream.
                None: 10 (half a minute) before the first image, 66 (five minutes, the time of a
                restart) after it.
            deprecated: Fields of ``settings`` and its sampler, as the last release took them.

        Raises:
            CytosynthError: Refused by the server; no progress; or ``DATA_LOSS`` if an image is
                missing, doubled, of another class, or of another manifest than those before.
        """
        settings = settings_or_keywords(SynthesisSettings, settings, deprecated, "synthesize")
        request = encode.synthesize_request(class_counts, settings, first_index)
        return self._unbroken(request, _Expected(class_counts, first_index), max_failures)

    def _unbroken(
        self,
        request: generator_pb2.SynthesizeRequest,
        expected: _Expected,
        max_failures: int | None,
    ) -> Iterator[SyntheticImage]:
        num_failures, first_index = 0, expected.next_index
        while True:
            request.first_index = expected.next_index
            call = None
            try:
                call = self._generator.Synthesize(
                    request,
                    timeout=self._connection.timeout_seconds or STREAM_SECONDS,
                    metadata=self._connection.metadata,
                )
                for response in call:
                    image = expected.take(response)
                    num_failures = 0
                    yield image
                if expected.complete:
                    return
                failure = CytosynthError("UNAVAILABLE", "the stream ended too early")
            except grpc.RpcError as error:
                failure = self._connection.error(error)
            except ValueError:
                if not self._connection.closed:
                    raise
                raise self._connection.closed_error() from None
            finally:
                if call is not None:
                    call.cancel()
            made_progress = expected.next_index > request.first_index
            if expected.complete and made_progress:
                return  # It broke after the last image.
            if self._connection.closed or not _may_resume(failure, made_progress):
                raise failure
            num_failures += 1
            under_way = expected.next_index > first_index
            most = max_failures or (MAX_FAILURES_UNDER_WAY if under_way else MAX_FAILURES)
            if num_failures >= most:
                raise CytosynthError(
                    failure.code,
                    f"no progress at image {expected.next_index} of {expected.total} after "
                    f"{num_failures} failures in a row: {failure.message}",
                    remedy=failure.remedy or "ask again from this index once the service is well",
                    request_id=failure.request_id,
                )
            delay = max(retry_delay(num_failures), failure.retry_after_seconds)
            log.info(
                "stream broke at image %d of %d (%s: %s); resuming in %.1f s",
                expected.next_index,
                expected.total,
                failure.code,
                failure.message,
                delay,
            )
            self._connection.pause(delay)


class _Expected:
    """Checks a stream for gaps, duplicates and changes of manifest."""

    def __init__(self, class_counts: Mapping[str, int], first_index: int) -> None:
        self._class_ids = list(class_counts)
        self._ends = list(accumulate(class_counts.values()))
        self.total = self._ends[-1] if self._ends else 0
        self.next_index = first_index
        self._digest = ""
        self._manifest: dict[str, Any] = {}

    @property
    def complete(self) -> bool:
        return self.next_index >= self.total

    def take(self, response: generator_pb2.SynthesizeResponse) -> SyntheticImage:
        """The image; raises ``DATA_LOSS`` if another one is due."""
        if self.complete:
            raise _data_loss(f"image {response.index} came after the last of {self.total}")
        if response.index != self.next_index:
            kind = "doubled" if response.index < self.next_index else "missing"
            raise _data_loss(f"image {response.index} came where {self.next_index} is due ({kind})")
        class_id = self._class_ids[bisect.bisect_right(self._ends, response.index)]
        if response.class_id != class_id:
            raise _data_loss(f"image {response.index} is {response.class_id!r}, not {class_id!r}")
        if not response.image:
            raise _data_loss(f"image {response.index} is empty")
        if not self._digest:
            self._digest = response.manifest_digest
        elif response.manifest_digest != self._digest:
            raise _data_loss(
                f"the model changed at image {response.index}: manifest "
                f"{response.manifest_digest[:12]} after {self._digest[:12]}"
            )
        if response.manifest_json and not self._manifest:
            try:
                self._manifest = json.loads(response.manifest_json)
            except ValueError:
                raise _data_loss("the manifest is not JSON") from None
        self.next_index += 1
        return SyntheticImage(
            index=response.index,
            class_id=response.class_id,
            image_seed=response.image_seed,
            data=response.image,
            width=response.width,
            height=response.height,
            manifest_digest=response.manifest_digest,
            manifest=self._manifest,
            image_format=_format_name(response.image_format),
        )


def _may_resume(failure: CytosynthError, made_progress: bool) -> bool:
    if failure.code == "DEADLINE_EXCEEDED":
        return made_progress  # The stream was only long-lived; with no image it is stuck.
    if failure.code == "RESOURCE_EXHAUSTED":
        return failure.retry_after_seconds > 0
    return failure.code in _BROKEN


def _data_loss(problem: str) -> CytosynthError:
    return CytosynthError(
        "DATA_LOSS", problem, remedy="start the request again from its first image"
    )


def _format_name(value: int) -> str:
    return next((name for name, number in encode.IMAGE_FORMATS.items() if number == value), "png")


def _settings_dict(settings: generator_pb2.SamplerSettings) -> dict[str, Any]:
    return {descriptor.name: value for descriptor, value in settings.ListFields()}
