"""Plans: dependencies of an image, shards of a request, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.models.diffusion_bases import Base, TinyDecoder
from services.common.models.distilled_loras import DistillationLora
from services.common.models.sampler_presets import SAMPLER_PRESETS
from services.generator.adapter_manifest import AdapterRef
from services.generator.config import GeneratorSettings
from services.generator.plan import Execution, SynthesisPlan, make_execution, make_plan
from services.generator.presets import PRESETS, SamplerSettings, sampler_settings
from services.generator.request import SynthesisRequest
from services.generator.shards import cut
from tests.support import fakes

BASE = Base("tiny", "/models/tiny", "r1", {})
SHARED = AdapterRef("a1", "d1", "shared", ("basophil", "monocyte"), "tiny", "r1")
PER_CLASS = replace(SHARED, layout="per_class")
COUNTS = (("monocyte", 5), ("basophil", 7))


def plan_of(adapter: AdapterRef | None = None, **fields: object) -> SynthesisPlan:
    request = SynthesisRequest(**({"class_counts": COUNTS, "seed": 1} | fields))  # type: ignore[arg-type]
    return make_plan(request, "local", BASE, adapter, Execution(4, "float32"), 1000)


def test_images_run_through_the_classes_in_order() -> None:
    indices, class_ids = zip(*plan_of().classes_by_index(0, 100), strict=True)
    assert indices == tuple(range(12))
    assert class_ids == ("monocyte",) * 5 + ("basophil",) * 7


def test_image_seed_depends_on_class_seed_and_index_alone() -> None:
    plan = plan_of(SHARED)
    reference = plan.image_seed("monocyte", 3)
    others = [
        plan.image_seed("basophil", 3),
        plan.image_seed("monocyte", 4),
        replace(plan, seed=2).image_seed("monocyte", 3),
    ]
    assert len({reference, *others}) == 4
    assert all(0 <= seed < 2**64 for seed in others)
    for same in (
        replace(plan, base_revision="r2"),
        replace(plan, adapter=None),
        replace(plan, adapter=replace(SHARED, digest="d2")),
        replace(plan, sampler=SamplerSettings(8, 2.0, "ddim")),
        replace(plan, first_index=2, tenant="b"),
    ):
        assert same.image_seed("monocyte", 3) == reference, "other noise gives another cell"


def test_image_seed_stays_what_it_was() -> None:
    # A change here silently changes every image that was ever asked for.
    assert plan_of().image_seed("monocyte", 0) == 18147738994644238628


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    first=st.integers(0, 1000),
    shard=st.integers(1, 30),
    adapter=st.sampled_from([None, SHARED, PER_CLASS]),
)
def test_shards_cover_the_request_once_in_order(
    counts: list[int], first: int, shard: int, adapter: AdapterRef | None
) -> None:
    first %= sum(counts)
    class_counts = tuple((f"c{i}", count) for i, count in enumerate(counts))
    known = tuple(class_id for class_id, _ in class_counts)
    adapter = replace(adapter, class_ids=known) if adapter else None
    plan = plan_of(adapter, class_counts=class_counts, first_index=first)
    pieces = [plan.classes_by_index(piece.first, piece.end) for piece in cut(plan, shard)]
    images = [image for piece in pieces for image in piece]
    assert [index for index, _ in images] == list(range(first, plan.num_images))
    assert images == list(plan.classes_by_index(0, plan.num_images))[first:]
    assert all(piece.end - piece.first <= shard for piece in cut(plan, shard))


def guided(num_steps: int = 10, scale: float = 2.0, **interval: float) -> list[bool]:
    """Whether each step is guided."""
    scales = SamplerSettings(num_steps, scale, "ddim", **interval).guidance_scales(num_steps)
    assert len(scales) == num_steps and set(scales) <= {None, scale}
    return [scale is not None for scale in scales]


def test_guidance_acts_on_its_share_of_the_steps() -> None:
    assert guided() == [True] * 10
    assert guided(scale=1.0) == [False] * 10
    assert guided(scale=0.0) == [True] * 10
    assert guided(guidance_start=0.2, guidance_stop=0.5) == [False] * 2 + [True] * 3 + [False] * 5
    assert guided(guidance_start=0.5, guidance_stop=0.5) == [False] * 10
    assert guided(1, guidance_stop=0.1) == [True]


def plan_on(base: Base, **fields: str) -> SynthesisPlan:
    request = SynthesisRequest(COUNTS, seed=1, **fields)  # type: ignore[arg-type]
    return make_plan(request, "local", base, None, Execution(4, "float32"), 1000)


def test_tiny_decoder_is_the_request_s_choice_and_draws_the_same_cells() -> None:
    base = replace(BASE, tiny_decoder=TinyDecoder("/models/tiny/vae_tiny", "t1"))
    tiny, full = plan_on(base, decoder="tiny"), plan_on(base)
    assert (tiny.sampler.decoder, full.sampler.decoder) == ("tiny", "full")
    assert tiny.extra_revisions == (("decoder_revision", "t1"),)
    assert json.loads(tiny.manifest_json())["decoder_revision"] == "t1"
    assert json.loads(tiny.manifest_json())["sampler"]["decoder"] == "tiny"
    assert full.manifest_json() == plan_of().manifest_json()


def test_draft_takes_the_steps_of_the_base_s_distillation_lora() -> None:
    base = replace(
        BASE, distillation_lora=DistillationLora("/models/lora", "lora.safetensors", "a1", 6)
    )
    draft = plan_on(base, preset="draft")
    assert draft.sampler == SamplerSettings(6, 1.0, "ddim", distilled=True)
    assert draft.evaluations_per_image == 6
    manifest = json.loads(draft.manifest_json())
    assert manifest["accelerator_revision"] == "a1" and manifest["sampler"]["accelerated"] is True
    for preset in ("fast", "balanced", "paper"):
        plan = plan_on(base, preset=preset)
        assert plan.manifest_json() == plan_of(preset=preset).manifest_json()


def test_draft_is_fast_with_a_base_that_has_no_distillation_lora() -> None:
    draft, fast = plan_of(preset="draft"), plan_of(preset="fast")
    assert draft.manifest_json() == fast.manifest_json()
    assert fast.evaluations_per_image == 7


SOLVER = replace(fakes.bespoke_solver(4, 2), revision="s1")
WITH_SOLVER = replace(BASE, bespoke_solver=SOLVER)


def test_fast_is_the_bespoke_solver_of_a_base_that_has_one() -> None:
    fast = plan_on(WITH_SOLVER, preset="fast")
    assert fast.sampler == SamplerSettings(4, 2.0, "bespoke", guidance_stop=0.5)
    assert fast.evaluations_per_image == 6
    assert fast.extra_revisions == (("solver_revision", "s1"),)
    assert json.loads(fast.manifest_json())["solver_revision"] == "s1"
    assert plan_on(WITH_SOLVER, preset="draft").manifest_json() == fast.manifest_json()
    assert plan_on(WITH_SOLVER, scheduler="bespoke").manifest_json() == fast.manifest_json()
    for preset in ("balanced", "paper"):
        plan = plan_on(WITH_SOLVER, preset=preset)
        assert plan.manifest_json() == plan_of(preset=preset).manifest_json()


def test_numbers_that_the_bespoke_solver_lacks_take_the_general_preset() -> None:
    def sampler(**fields: object) -> SamplerSettings:
        return plan_on(WITH_SOLVER, preset="fast", **fields).sampler  # type: ignore[arg-type]

    general = PRESETS["fast"]
    assert sampler(num_steps=4, guidance_stop=0.5).scheduler == "bespoke", "as it is anyway"
    assert sampler(decoder="full").scheduler == "bespoke"
    assert sampler(num_steps=7) == replace(general, num_steps=7)
    assert sampler(guidance_scale=3.0) == replace(general, guidance_scale=3.0)
    assert sampler(guidance_start=0.1) == replace(general, guidance_start=0.1)
    assert sampler(scheduler="ddim") == replace(general, scheduler="ddim")


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"num_steps": 7}, "sampler.num_steps", "leave it out"),
        ({"guidance_scale": 3.0}, "sampler.guidance_scale", "another scheduler"),
        ({"guidance_stop": 1.0}, "sampler.guidance_stop", "another scheduler"),
    ],
)
def test_bespoke_solver_takes_no_other_numbers(
    fields: dict[str, Any], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidArgument, match=remedy) as caught:
        plan_on(WITH_SOLVER, scheduler="bespoke", **fields)
    assert caught.value.field == field


def test_base_without_a_bespoke_solver_says_so() -> None:
    with pytest.raises(InvalidArgument, match="tiny has no solver of its own") as caught:
        plan_of(scheduler="bespoke")
    assert caught.value.field == "sampler.scheduler"


def test_evaluations_of_an_image_are_counted() -> None:
    def evaluations(*settings: float) -> int:
        steps, scale, start, stop = settings
        sampler = SamplerSettings(int(steps), scale, "ddim", start, stop)
        return replace(plan_of(), sampler=sampler).evaluations_per_image

    assert evaluations(10, 2.0, 0.0, 1.0) == 20
    assert evaluations(10, 1.0, 0.0, 1.0) == 10
    assert evaluations(10, 2.0, 0.1, 0.6) == 15


def test_a_guidance_interval_is_part_of_the_manifest_only_where_there_is_one() -> None:
    plain = replace(plan_of(), sampler=SamplerSettings(20, 2.0, "dpmpp_2m"))
    own = {"num_steps": 20, "guidance_scale": 2.0, "scheduler": "dpmpp_2m"}
    whole = plan_of(**own, guidance_start=0.0, guidance_stop=1.0)
    assert plain.manifest_json() == whole.manifest_json()
    assert "guidance_start" not in plain.manifest_json()
    late = plan_of(**own, guidance_start=0.1)
    assert json.loads(late.manifest_json())["sampler"]["guidance_start"] == 0.1


def test_small_requests_are_interactive_unless_they_say_bulk() -> None:
    def interactive(wanted: bool | None, num_images: int, first_index: int = 0) -> bool:
        counts = (("monocyte", num_images),)
        fields = {"class_counts": counts, "interactive": wanted, "first_index": first_index}
        return plan_of(**fields).interactive  # type: ignore[arg-type]

    assert interactive(None, 16) and interactive(True, 16)
    assert not interactive(None, 17) and not interactive(False, 1)
    assert interactive(True, 100, first_index=84), "16 are left"


def test_priority_is_no_part_of_what_an_image_is() -> None:
    small = {"class_counts": (("monocyte", 3),)}
    quick, bulk = plan_of(**small), plan_of(**small, interactive=False)
    assert quick.manifest_json() == bulk.manifest_json()
    assert quick.image_seed("monocyte", 2) == bulk.image_seed("monocyte", 2)


def test_every_request_has_an_id_of_its_own() -> None:
    assert plan_of().request_id != plan_of().request_id != ""


def test_execution_is_what_the_settings_ask_for() -> None:
    settings = GeneratorSettings(
        generator_num_slots=12, generator_dtype="bfloat16", generator_decode_batch_size=3
    )
    execution = make_execution(settings)
    assert execution == Execution(12, "bfloat16", compiled=False, decode_batch_size=3)
    plan = make_plan(SynthesisRequest(COUNTS), "local", BASE, None, execution, 100)
    assert json.loads(plan.manifest_json())["execution"] == {
        "num_slots": 12,
        "dtype": "bfloat16",
        "compiled": False,
        "decode_batch_size": 3,
    }


def test_manifest_is_the_same_wherever_a_stream_resumes() -> None:
    plan = plan_of(SHARED)
    manifest = json.loads(plan.manifest_json())
    assert plan.manifest_json() == plan_of(SHARED, first_index=7).manifest_json()
    assert manifest["adapter"] == "adapters/a1"
    assert manifest["class_counts"][1] == {"class_id": "basophil", "num_images": 7}
    assert manifest["sampler"]["num_steps"] == PRESETS["balanced"].num_steps


def test_the_trainer_knows_the_presets_names() -> None:
    assert tuple(PRESETS) == SAMPLER_PRESETS


def test_own_values_overrule_the_preset() -> None:
    def settings(**fields: object) -> SamplerSettings:
        return sampler_settings(SynthesisRequest(class_counts=COUNTS, **fields), BASE)  # type: ignore[arg-type]

    assert settings() == PRESETS["balanced"]
    assert settings(preset="paper") == PRESETS["paper"]
    assert settings(preset="paper", num_steps=3) == replace(PRESETS["paper"], num_steps=3)
    assert settings(guidance_scale=0.0, scheduler="unipc").guidance_scale == 0.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"class_counts": ()}, "class_counts"),
        ({"class_counts": (("a b", 1),)}, "class_counts[0].class_id"),
        ({"class_counts": (("a", 1), ("b", 0))}, "class_counts[1].num_images"),
        ({"class_counts": (("a", 600), ("b", 600))}, "class_counts"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"first_index": 12}, "first_index"),
        ({"preset": "x" * 10_000}, "sampler.preset"),
        ({"num_steps": 0}, "sampler.num_steps"),
        ({"guidance_scale": float("nan")}, "sampler.guidance_scale"),
        ({"guidance_scale": 31.0}, "sampler.guidance_scale"),
        ({"guidance_start": -0.1}, "sampler.guidance_start"),
        ({"guidance_stop": float("nan")}, "sampler.guidance_stop"),
        ({"guidance_start": 0.6, "guidance_stop": 0.5}, "sampler.guidance_start"),
        ({"scheduler": "euler"}, "sampler.scheduler"),
        ({"decoder": "huge"}, "sampler.decoder"),
        ({"decoder": "tiny"}, "sampler.decoder"),  # the base has none
        ({"interactive": True, "class_counts": (("monocyte", 17),)}, "priority"),
    ],
)
def test_bad_value_is_refused_by_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan_of(**fields)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.remedy
    assert len(caught.value.message) < 400


def test_classes_outside_adapter_or_base_are_refused_with_the_known_ones() -> None:
    unknown = {"class_counts": (("monocyte", 1), ("myeloblast", 1))}
    with pytest.raises(InvalidArgument, match="basophil, monocyte") as caught:
        plan_of(SHARED, **unknown)
    assert caught.value.field == "class_counts[1].class_id"
    assert plan_of(None, **unknown).num_images == 2
    listing = replace(BASE, manifest={"class_ids": ["monocyte"]})
    request = SynthesisRequest(class_counts=(("myeloblast", 1),))
    with pytest.raises(InvalidArgument, match="base tiny does not know; it knows: monocyte"):
        make_plan(request, "local", listing, None, Execution(4, "float32"), 10)


def test_adapter_of_another_base_or_revision_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="'other'") as caught:
        plan_of(replace(SHARED, base="other"))
    assert caught.value.field == "adapter"
    with pytest.raises(FailedPrecondition, match="another revision"):
        plan_of(replace(SHARED, base_revision="r0"))
