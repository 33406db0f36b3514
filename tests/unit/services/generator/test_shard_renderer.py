"""Shard renderers: diffusers' images from any cut; failures to their reader."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from cytosynth.cell_classes import class_prompt
from services.common.errors import DataLoss, FailedPrecondition, NotFound
from services.common.models.diffusion_bases import load_pipeline, load_tiny_decoder, resolve_base
from services.common.models.pipelines import decode_latents, encode_prompts
from services.generator.engine.denoiser import starting_noise
from services.generator.engine.solver import Solver, build_scheduler, build_solver
from services.generator.plan import SyntheticImage
from services.generator.presets import SCHEDULERS, SamplerSettings
from services.generator.reorder_buffer import ReorderBuffer
from services.generator.shard_renderer import ShardRenderer
from services.generator.shards import Shard
from tests.support import fakes
from tests.support.servers.replicas import Replicas, collect, pixels, render
from tests.support.studio import CLASSES

ADAPTERS = (None, "one", "each")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    replicas = Replicas(tmp_path_factory.mktemp("replicas"))
    yield replicas
    replicas.close()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("adapter_id", ADAPTERS)
def test_images_are_those_of_diffusers(
    replicas: Replicas, adapter_id: str | None, scheduler: str
) -> None:
    plan = replicas.plan(adapter_id)
    plan = replace(plan, sampler=SamplerSettings(6, 3.0, scheduler))
    [images] = render(replicas.renderers[0], Shard(plan, 4, 6))
    loras = {CLASSES[0]: {"one": 0, "each": 1}, CLASSES[1]: {"one": 0, "each": 2}}
    for image in images:
        pipeline = load_pipeline(replicas.base)
        if adapter_id:
            data = replicas.loras[loras[image.class_id][adapter_id]]
            fakes.load_lora(pipeline, data)
        pipeline.scheduler = build_scheduler(scheduler, dict(pipeline.scheduler.config))
        [expected] = pipeline(
            class_prompt(image.class_id),
            num_inference_steps=6,
            guidance_scale=3.0,
            latents=starting_noise(image.image_seed, (16, 4, 4))[None],
            output_type="np",
        ).images
        difference = np.abs(pixels(image) - (expected * 255).round()).max()
        assert difference <= 1, f"image {image.index}: {difference} levels of 255"
        assert pixels(image).std() > 5


def test_tiny_decoder_gives_what_diffusers_gives_with_it(replicas: Replicas) -> None:
    plan = replicas.plan("one", decoder="tiny", guidance_scale=1.0)
    [images] = render(replicas.renderers[0], Shard(plan, 3, 6))
    [full] = render(replicas.renderers[0], Shard(replicas.plan("one", guidance_scale=1.0), 3, 6))
    assert [image.image_seed for image in images] == [image.image_seed for image in full]
    tiny = load_tiny_decoder(replicas.base)
    assert tiny is not None
    for image, other in zip(images, full, strict=True):
        pipeline = load_pipeline(replicas.base)
        fakes.load_lora(pipeline, replicas.loras[0])
        pipeline.scheduler = build_scheduler("unipc", dict(pipeline.scheduler.config))
        pipeline.vae = tiny
        [expected] = pipeline(
            class_prompt(image.class_id),
            num_inference_steps=3,
            guidance_scale=1.0,
            latents=starting_noise(image.image_seed, (16, 4, 4))[None],
            output_type="np",
        ).images
        assert np.abs(pixels(image) - (expected * 255).round()).max() <= 1
        assert np.abs(pixels(image) - pixels(other)).max() > 5


def test_replica_with_another_tiny_decoder_is_refused(replicas: Replicas) -> None:
    plan = replicas.plan(None, decoder="tiny")
    plan = replace(plan, extra_revisions=(("decoder_revision", "0" * 64),))
    with pytest.raises(FailedPrecondition, match="restart the generator"):
        render(replicas.renderers[0], Shard(plan, 0, 1))


@pytest.mark.parametrize("adapter_id", ADAPTERS)
def test_accelerated_images_are_those_of_diffusers_with_both_loras(
    replicas: Replicas, adapter_id: str | None
) -> None:
    plan = replicas.plan(adapter_id, preset="draft", num_steps=None)
    assert plan.sampler == SamplerSettings(2, 1.0, "ddim", distilled=True)
    [images] = render(replicas.renderers[0], Shard(plan, 3, 6))
    loras = {CLASSES[0]: {"one": 0, "each": 1}, CLASSES[1]: {"one": 0, "each": 2}}
    for image in images:
        pipeline = load_pipeline(replicas.base)
        fakes.load_lora(pipeline, replicas.distillation_lora, "distilled", unet_only=True)
        names = ["distilled"]
        if adapter_id:
            fakes.load_lora(pipeline, replicas.loras[loras[image.class_id][adapter_id]], "class")
            names.append("class")
        pipeline.set_adapters(names)
        config = {**pipeline.scheduler.config, "timestep_spacing": "trailing"}
        pipeline.scheduler = build_scheduler("ddim", config)

        def expected(pipeline: StableDiffusionPipeline, image: SyntheticImage) -> np.ndarray:
            [sampled] = pipeline(
                class_prompt(image.class_id),
                num_inference_steps=2,
                guidance_scale=1.0,
                latents=starting_noise(image.image_seed, (16, 4, 4))[None],
                output_type="np",
            ).images
            return (sampled * 255).round()

        assert np.abs(pixels(image) - expected(pipeline, image)).max() <= 1
        pipeline.set_adapters(names[1:]) if adapter_id else pipeline.unload_lora_weights()
        assert np.abs(pixels(image) - expected(pipeline, image)).max() > 5


@pytest.mark.parametrize("adapter_id", ADAPTERS)
def test_images_of_the_bespoke_solver_are_what_its_coefficients_say(
    replicas: Replicas, adapter_id: str | None
) -> None:
    plan, spec = replicas.plan(adapter_id, preset="fast", num_steps=None), replicas.bespoke
    assert plan.sampler == SamplerSettings(3, 2.0, "bespoke", guidance_stop=2 / 3)
    [images] = render(replicas.renderers[0], Shard(plan, 3, 6))
    loras = {CLASSES[0]: {"one": 0, "each": 1}, CLASSES[1]: {"one": 0, "each": 2}}
    for image in images:
        pipeline = load_pipeline(replicas.base)
        if adapter_id:
            fakes.load_lora(pipeline, replicas.loras[loras[image.class_id][adapter_id]])
        tokens = encode_prompts(pipeline, [class_prompt(image.class_id), ""]).tokens
        x = noise = starting_noise(image.image_seed, (16, 4, 4))[None]
        outputs, guidances = [], []
        with torch.inference_mode():
            for k, timestep in enumerate(spec.timesteps):
                pair = pipeline.unet(x.expand(2, -1, -1, -1), timestep, tokens).sample
                prompted, plain = pair.chunk(2)
                guided = k < spec.num_guided_steps
                outputs.append(plain + 2.0 * (prompted - plain) if guided else prompted)
                guidances += [prompted - plain] if guided else []
                x = spec.starts[k] * noise
                x = x + sum(w * o for w, o in zip(spec.outputs[k], outputs, strict=True))
                x = x + sum(w * g for w, g in zip(spec.guidances[k], guidances, strict=True))
            expected = decode_latents(pipeline, x)
        expected = ((expected / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
        assert expected.std() > 5, "nothing to see"
        assert np.abs(pixels(image) - expected.numpy()).max() <= 1


@pytest.mark.parametrize("preset", ["draft", "fast"])
def test_replica_with_another_distillation_lora_or_solver_is_refused(
    replicas: Replicas, preset: str
) -> None:
    plan = replicas.plan(None, preset=preset, num_steps=None)
    others = tuple((name, "0" * 64) for name, _ in plan.extra_revisions)
    name = {"draft": "accelerator_revision", "fast": "solver_revision"}[preset]
    assert [name for name, _ in others] == [name]
    with pytest.raises(FailedPrecondition, match="restart the generator"):
        render(replicas.renderers[0], Shard(replace(plan, extra_revisions=others), 0, 1))


@settings(max_examples=4, deadline=None)
@given(cuts=st.sets(st.integers(1, 8)), chosen=st.lists(st.integers(0, 1), min_size=9, max_size=9))
def test_images_are_the_same_from_any_cut_and_replica(
    replicas: Replicas, cuts: set[int], chosen: list[int]
) -> None:
    for adapter_id in ADAPTERS:
        plan = replicas.plan(adapter_id)
        [whole] = render(replicas.renderers[0], Shard(plan, 0, 9))
        assert [image.index for image in whole] == list(range(9))
        edges = [0, *sorted(cuts), 9]
        shards = [Shard(plan, a, b) for a, b in pairwise(edges)]
        pieces: list[SyntheticImage] = []
        for number, renderer in enumerate(replicas.renderers):
            mine = [s for s, choice in zip(shards, chosen, strict=False) if choice == number]
            pieces += [image for images in render(renderer, *mine) for image in images]
        assert sorted(pieces, key=lambda image: image.index) == whole


def test_images_come_in_order_with_class_seed_and_size(replicas: Replicas) -> None:
    plan = replicas.plan("each", image_format="WEBP", first_index=2)
    [images] = render(replicas.renderers[0], Shard(plan, 2, 9))
    assert [image.index for image in images] == list(range(2, 9))
    assert [image.class_id for image in images] == [CLASSES[0]] * 3 + [CLASSES[1]] * 4
    assert all(i.image_seed == plan.image_seed(i.class_id, i.index) for i in images)
    assert all((image.width, image.height) == (32, 32) for image in images)
    assert all(image.data[8:12] == b"WEBP" for image in images)
    [png] = render(replicas.renderers[0], Shard(replace(plan, image_format="PNG"), 2, 9))
    assert all((pixels(a) == pixels(b)).all() for a, b in zip(images, png, strict=True))


def test_images_that_are_still_encoded_come_with_the_first() -> None:
    images = [SyntheticImage(index, CLASSES[0], 0, b"", 32, 32) for index in range(2, 5)]

    async def run() -> list[list[SyntheticImage]]:
        loop = asyncio.get_running_loop()
        buffer = ReorderBuffer(2, loop)
        buffer.num_finished = 2
        buffer.put(images[0])
        loop.call_later(0.0005, buffer.put, images[1])
        first = await buffer.next()
        buffer.num_finished = 3
        buffer.put(images[2])
        return [first, await buffer.next()]

    assert asyncio.run(run()) == [images[:2], images[2:]]


def test_reader_that_leaves_takes_its_work_with_it(replicas: Replicas) -> None:
    renderer = replicas.renderers[0]
    plan = replicas.plan("one", class_counts=[(CLASSES[0], 90)], num_steps=50)

    async def run() -> None:
        images = renderer.render(Shard(plan, 0, 90))
        assert (await anext(images))[0].index == 0
        assert sum(engine.num_streams for engine in renderer.engines) == 1
        await images.aclose()

    asyncio.run(run())
    engine = renderer.engines[-1]
    idle = threading.Event()
    engine._command(idle.set)
    assert idle.wait(30)
    assert engine.num_streams == 0 and engine.backlog.total() == 0


def test_failures_reach_their_reader_and_no_other(replicas: Replicas) -> None:
    replicas.write("torn", "shared", {"shared": replicas.loras[0][:-100]})
    replicas.write("lost", "shared", {"shared": replicas.loras[0]})
    plans = {key: replicas.plan(key) for key in ("torn", "lost", "one")}
    replicas.store.delete("local", "adapters", "lost")

    async def run() -> list[object]:
        renderer = replicas.renderers[0]
        shards = [Shard(plan, 0, 3) for plan in plans.values()]
        work = [collect(renderer, shard) for shard in shards]
        return await asyncio.gather(*work, return_exceptions=True)

    torn, lost, good = asyncio.run(run())
    assert isinstance(torn, DataLoss)
    assert isinstance(lost, NotFound)
    assert isinstance(good, list) and len(good) == 3


def test_impossible_number_of_steps_is_told_before_anything_is_sampled(replicas: Replicas) -> None:
    plan = replicas.plan(None)
    bad = replace(plan, sampler=replace(plan.sampler, num_steps=1001))
    with pytest.raises(FailedPrecondition, match="1001 steps"):
        render(replicas.renderers[0], Shard(bad, 0, 1))


def test_a_solver_is_built_off_the_event_loop(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = list[threading.Thread]()

    def build(name: str, config: dict, num_steps: int) -> Solver:
        threads.append(threading.current_thread())
        return build_solver(name, config, num_steps)

    monkeypatch.setattr("services.generator.shard_renderer.build_solver", build)
    [images] = render(replicas.renderers[0], Shard(replicas.plan(None), 0, 2))
    assert len(images) == 2
    assert len(threads) == 1 and threads[0] is not threading.current_thread()


@pytest.mark.parametrize("other", [{"generator_num_slots": 16}, {"generator_dtype": "bfloat16"}])
def test_plan_for_another_execution_is_refused(replicas: Replicas, other: dict) -> None:
    renderer = ShardRenderer(replicas.settings.model_copy(update=other), replicas.store)
    with pytest.raises(FailedPrecondition, match="settings are not those"):
        render(renderer, Shard(replicas.plan(None), 0, 1))
    assert not renderer.engines


def test_warm_up_leaves_nothing_to_load(replicas: Replicas) -> None:
    renderer = ShardRenderer(replicas.settings, replicas.store)
    asyncio.run(renderer.warm_up())
    warm = renderer.engines
    assert len(warm) == 2
    for fields in ({}, {"preset": "draft", "num_steps": None}):
        render(renderer, Shard(replicas.plan(None, **fields), 0, 1))
    assert set(renderer.engines) == set(warm)
    for engine in warm:
        engine.close()


def test_idle_base_makes_room_and_a_busy_one_does_not(replicas: Replicas) -> None:
    renderer = ShardRenderer(
        replicas.settings.model_copy(update={"generator_max_loaded_bases": 1}), replicas.store
    )
    render(renderer, Shard(replicas.plan(None), 0, 1))
    [first] = renderer.engines
    second = resolve_base("second", replicas.settings.models_dir)
    plan = replace(replicas.plan(None), base="second", base_revision=second.revision)
    long = replace(replicas.plan(None), sampler=replace(plan.sampler, num_steps=300))

    async def run() -> None:
        images = renderer.render(Shard(long, 0, 9))
        reading = asyncio.ensure_future(anext(images))
        while not first.num_streams:
            await asyncio.sleep(0.01)
        assert len(await collect(renderer, Shard(plan, 0, 2))) == 2
        assert len(renderer.engines) == 2 and renderer.engines[0] is first
        assert (await reading)[0].index == 0
        await images.aclose()

    asyncio.run(run())
    while first.num_streams:
        pass
    assert len(render(renderer, Shard(plan, 0, 1))[0]) == 1
    for engine in renderer.engines:
        engine.close()


def test_warm_up_in_bfloat16_succeeds(replicas: Replicas) -> None:
    settings = replicas.settings.model_copy(update={"generator_dtype": "bfloat16"})
    renderer = ShardRenderer(settings, replicas.store)
    asyncio.run(renderer.warm_up())
    for engine in renderer.engines:
        assert engine.denoiser.dtype == torch.bfloat16
        engine.close()
