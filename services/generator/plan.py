"""Plans of requests: which image has which class and seed.

Nothing here knows torch: the generator's front checks and plans, replicas sample.
"""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cytosynth.cell_classes import is_class_id
from services.common.errors import InvalidArgument, shown
from services.common.images.seeds import image_seed
from services.common.models.diffusion_bases import Base
from services.common.seeds import MAX_SEED
from services.generator.adapter_manifest import AdapterRef, check_base
from services.generator.config import GeneratorSettings
from services.generator.presets import BESPOKE, SamplerSettings, sampler_settings
from services.generator.request import SynthesisRequest

MAX_CLASS_COUNTS = 100
MAX_NUM_PER_CLASS = 100_000


@dataclass(frozen=True)
class Execution:
    """The fixed shapes and the arithmetic that make images bit-identical between replicas."""

    batch_rows: int
    dtype: str
    compiled: bool = False
    decode_batch_size: int = 4

    def to_dict(self) -> dict[str, int | str | bool]:
        """JSON form, under the names that manifests have."""
        return {
            "num_slots": self.batch_rows,
            "dtype": self.dtype,
            "compiled": self.compiled,
            "decode_batch_size": self.decode_batch_size,
        }


def make_execution(settings: GeneratorSettings) -> Execution:
    """The execution that the settings ask for."""
    return Execution(
        settings.generator_num_slots,
        settings.dtype,
        settings.generator_compile,
        settings.generator_decode_batch_size,
    )


@dataclass(frozen=True)
class SyntheticImage:
    """A finished image.

    Attributes:
        data: The encoded file.
        width: Pixels.
        height: Pixels.
    """

    index: int
    class_id: str
    image_seed: int
    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class SynthesisPlan:
    """A checked request: everything that its images depend on.

    Attributes:
        extra_revisions: Revisions of what is used beside the base itself, by name.
        first_index: First image wanted; from here on, fields are not a part of the manifest.
        interactive: Whether it goes before bulk work.
        request_id: Shares are per tenant, and then per request.
    """

    tenant: str
    base: str
    base_revision: str
    adapter: AdapterRef | None
    class_counts: tuple[tuple[str, int], ...]
    seed: int
    sampler: SamplerSettings
    execution: Execution
    image_format: str
    extra_revisions: tuple[tuple[str, str], ...] = ()
    first_index: int = 0
    interactive: bool = False
    request_id: str = ""

    @property
    def num_images(self) -> int:
        """Images in the whole request, those before ``first_index`` included."""
        return sum(count for _, count in self.class_counts)

    @property
    def evaluations_per_image(self) -> int:
        """UNet evaluations of one image; a guided step takes two."""
        scales = self.sampler.guidance_scales(self.sampler.num_steps)
        return sum(1 if scale is None else 2 for scale in scales)

    def classes_by_index(self, first: int, end: int) -> Iterator[tuple[int, str]]:
        """Index and class id of images ``first`` to ``end - 1``."""
        ends = list(accumulate(count for _, count in self.class_counts))
        for index in range(first, min(end, self.num_images)):
            yield index, self.class_counts[bisect_right(ends, index)][0]

    def image_seed(self, class_id: str, index: int, attempt: int = 0) -> int:
        """Seed of the noise that one image of this request starts from."""
        return image_seed(class_id, self.seed, index, attempt)

    def manifest_json(self) -> str:
        """Canonical JSON of what the images depend on, wherever a stream resumes."""
        manifest: dict[str, object] = {
            "kind": "synthesis",
            "base": self.base,
            "base_revision": self.base_revision,
            "adapter": self.adapter.name if self.adapter else None,
            "adapter_digest": self.adapter.digest if self.adapter else None,
            "class_counts": [{"class_id": c, "num_images": n} for c, n in self.class_counts],
            "seed": self.seed,
            "sampler": self.sampler.to_dict(),
            "execution": self.execution.to_dict(),
            "image_format": self.image_format,
            "intended_use": "research use only, not a medical device",
        }
        return _canonical(manifest | dict(self.extra_revisions)).decode()


def make_plan(
    request: SynthesisRequest,
    tenant: str,
    base: Base,
    adapter: AdapterRef | None,
    execution: Execution,
    max_num_images: int,
    interactive_num_images: int = 16,
) -> SynthesisPlan:
    """Check a request against its base and adapter.

    Raises:
        InvalidArgument: Naming the first field that is wrong and the remedy.
        FailedPrecondition: If the base has changed since the adapter was fitted.
    """
    if adapter is not None:
        check_base(adapter, base)
    check_class_counts(request.class_counts, max_num_images)
    _check_known_classes(request.class_counts, base, adapter)
    if not 0 <= request.seed <= MAX_SEED:
        raise InvalidArgument("seed", f"is {request.seed}", "send 0 to 2^63 - 1")
    sampler = sampler_settings(request, base)
    plan = SynthesisPlan(
        tenant=tenant,
        base=base.name,
        base_revision=base.revision,
        adapter=adapter,
        class_counts=tuple(request.class_counts),
        seed=request.seed,
        sampler=sampler,
        execution=execution,
        image_format=request.image_format,
        extra_revisions=extra_revisions(base, sampler),
        first_index=request.first_index,
        interactive=_is_interactive(request, interactive_num_images),
        request_id=uuid.uuid4().hex,
    )
    if not 0 <= request.first_index < plan.num_images:
        problem = f"is {request.first_index}, but the images are 0 to {plan.num_images - 1}"
        raise InvalidArgument("first_index", problem, "send the index of the next image wanted")
    return plan


def extra_revisions(base: Base, sampler: SamplerSettings) -> tuple[tuple[str, str], ...]:
    """Revisions of decoder, distillation LoRA and solver where they are used."""
    used = {
        "decoder_revision": base.tiny_decoder if sampler.decoder == "tiny" else None,
        "accelerator_revision": base.distillation_lora if sampler.distilled else None,
        "solver_revision": base.bespoke_solver if sampler.scheduler == BESPOKE else None,
    }
    return tuple((name, extra.revision) for name, extra in used.items() if extra)


def _is_interactive(request: SynthesisRequest, most: int) -> bool:
    num_images = sum(count for _, count in request.class_counts) - request.first_index
    if request.interactive and num_images > most:
        problem = f"is INTERACTIVE, but {num_images} images are wanted"
        raise InvalidArgument("priority", problem, f"ask for at most {most}, or send BULK")
    return request.interactive is not False and num_images <= most


def check_class_counts(class_counts: Sequence[tuple[str, int]], max_num_images: int) -> None:
    """Check ids and counts, without base or adapter.

    Raises:
        InvalidArgument: Naming the entry, for example ``class_counts[1].num_images``.
    """
    if not 1 <= len(class_counts) <= MAX_CLASS_COUNTS:
        problem = f"has {len(class_counts)} entries"
        raise InvalidArgument("class_counts", problem, f"send 1 to {MAX_CLASS_COUNTS}")
    first_place: dict[str, int] = {}
    for i, (class_id, count) in enumerate(class_counts):
        if not is_class_id(class_id):
            problem = f"is {shown(class_id)}, not a class id" if class_id else "is empty"
            remedy = "send a lower-case letter, then at most 62 of a-z, 0-9 and _"
            raise InvalidArgument(f"class_counts[{i}].class_id", problem, remedy)
        if class_id in first_place:
            problem = f"repeats {class_id!r} of class_counts[{first_place[class_id]}]"
            raise InvalidArgument(
                f"class_counts[{i}].class_id", problem, "name each class once, with its total"
            )
        first_place[class_id] = i
        if not 1 <= count <= MAX_NUM_PER_CLASS:
            remedy = f"send 1 to {MAX_NUM_PER_CLASS}; leave out a class that you do not want"
            raise InvalidArgument(f"class_counts[{i}].num_images", f"is {count}", remedy)
    total = sum(count for _, count in class_counts)
    if total > max_num_images:
        problem = f"ask for {total} images, more than the {max_num_images} of one request"
        raise InvalidArgument("class_counts", problem, "send several requests, each its own seed")


def _check_known_classes(
    class_counts: Sequence[tuple[str, int]], base: Base, adapter: AdapterRef | None
) -> None:
    known = adapter.class_ids if adapter else base.class_ids
    owner = adapter.name if adapter else f"base {base.name}"
    for i, (class_id, _) in enumerate(class_counts):
        if known is not None and class_id not in known:
            problem = f"is {class_id!r}, which {owner} does not know"
            remedy = f"it knows: {', '.join(sorted(known))}"
            raise InvalidArgument(f"class_counts[{i}].class_id", problem, remedy)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
