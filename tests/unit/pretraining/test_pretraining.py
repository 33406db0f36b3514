"""Pretraining scripts run, and keep the promises of the manifests."""

import dataclasses
import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import AutoencoderDC
from PIL import Image

from pretraining import (
    diffusion_models,
    export,
    fit_solver,
    guided_paths,
    latent_batches,
    train_clip,
    train_diffusion,
    train_resnet,
)
from pretraining.corpus import Corpus, join, may_be_seen, phantom_corpus, real_corpus
from pretraining.guided_paths import Teacher
from pretraining.train_autoencoder import new_autoencoder, set_principal_components
from pretraining.train_autoencoder import train as train_autoencoder
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.classifiers import build_model
from services.common.models.diffusion_bases import load_pipeline, resolve_base
from services.common.models.pipelines import decode_latents, image_size
from services.common.models.resnet_bases import resolve_resnet_base
from services.common.models.resnet_classifier import load_initial_weights
from services.generator.engine.solver import build_scheduler

A_STEP_OR_TWO = 0.001  # minutes


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return phantom_corpus(2, tmp_path_factory.mktemp("corpus"), workers=1)


@pytest.fixture(scope="module")
def autoencoder(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "ae"
    train_autoencoder(corpus, out, A_STEP_OR_TWO, 0, None)
    return out


def test_seen_and_unseen_real_images_are_told_apart_by_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    for class_id in ("monocyte", "basophil"):
        (tmp_path / class_id).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 256, (80, 70, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / class_id / f"{i}.png")
    seen, unseen = real_corpus(tmp_path), real_corpus(tmp_path, seen=False)
    assert len(seen.images) + len(unseen.images) == 20
    assert not set(seen.digests) & set(unseen.digests)
    assert all(map(may_be_seen, seen.digests))
    assert not any(map(may_be_seen, unseen.digests))
    assert seen.images.shape[1:] == (64, 64, 3)
    mixed = [may_be_seen(hashlib.sha256(bytes([i])).hexdigest()) for i in range(200)]
    assert 0.5 < np.mean(mixed) < 0.7


def test_phantoms_beside_real_images_say_that_they_are_phantoms(corpus):
    real = Corpus(corpus.images[:4], corpus.class_ids[:4], np.ones(4, bool), ["a", "b", "c", "d"])
    both = join(corpus, real)
    assert all(p.endswith(" phantom") for p in both.prompts()[: len(corpus.images)])
    assert not any(p.endswith(" phantom") for p in both.prompts()[len(corpus.images) :])
    assert not any(p.endswith(" phantom") for p in corpus.prompts())
    weights = both.sampling_weights()
    assert weights.sum() == pytest.approx(1)
    assert weights[both.is_real].sum() == pytest.approx(0.5)


def pixels_of(corpus, count):
    return torch.from_numpy(corpus.images[:count]).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def test_untrained_latents_are_the_principal_components_of_blocks_of_pixels(corpus):
    x = pixels_of(corpus, 30)
    blocks = x.unfold(2, 8, 8).unfold(3, 8, 8).movedim(1, 3).reshape(-1, 192).double()
    _, _, basis = torch.linalg.svd(blocks - blocks.mean(0), full_matrices=False)
    for count in (4, 16, 48):
        model = new_autoencoder(count)
        set_principal_components(model, x)
        latents = model.encode(x).latent
        centred = blocks - blocks.mean(0)
        lost = centred - centred @ basis[:count].T @ basis[:count]
        error = (model.decode(latents).sample - x).square().mean()
        assert latents.shape == (30, count, 8, 8)
        assert error == pytest.approx(float(lost.square().mean()), rel=0.02)
        assert latents.mean((0, 2, 3)).abs().max() < 1e-3
        between = torch.corrcoef(latents.movedim(1, 0).reshape(count, -1))
        assert (between - torch.eye(count)).abs().max() < 0.01


def test_a_longer_trained_decoder_keeps_the_latents(corpus, autoencoder, tmp_path):
    train_autoencoder(corpus, tmp_path / "longer", A_STEP_OR_TWO, 1, autoencoder)
    before, after = (
        AutoencoderDC.from_pretrained(folder).eval()
        for folder in (autoencoder, tmp_path / "longer")
    )
    assert after.config.scaling_factor == before.config.scaling_factor
    x = pixels_of(corpus, 2)
    with torch.no_grad():
        latents = before.encode(x).latent
        assert latents.shape == (2, 48, 8, 8)
        assert torch.equal(after.encode(x).latent, latents)
        assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)
    record = json.loads((tmp_path / "longer" / "training.json").read_text())
    assert record["start"] == json.loads((autoencoder / "training.json").read_text())


def test_a_base_is_a_pipeline_that_generates(corpus, autoencoder, tmp_path):
    vae = AutoencoderDC.from_pretrained(autoencoder).eval().requires_grad_(False)
    train_diffusion.train(corpus, vae, tmp_path / "base", A_STEP_OR_TWO, 0, None, compiled=False)
    pipeline = load_pipeline(resolve_base("base", tmp_path))
    assert pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads == 4
    assert image_size(pipeline) == 64
    prompt = "a microscopic image of a single monocyte"
    generated = pipeline(prompt, 64, 64, num_inference_steps=2, output_type="latent").images
    assert decode_latents(pipeline, generated).shape == (1, 3, 64, 64)


@torch.no_grad()
@pytest.mark.parametrize("num_channels", [16, 48])
def test_a_unet_goes_on_with_another_autoencoder(corpus, num_channels):
    pipeline = load_pipeline(resolve_base("cyto-small", Path("models")))
    vae = new_autoencoder(num_channels).eval()
    set_principal_components(vae, pixels_of(corpus, 30).flip(1))  # of other colours
    unet = diffusion_models.carry_over(pipeline, vae, corpus.images)
    x = pixels_of(corpus, 8)
    latents = latent_batches.encode(vae, x)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy, text = 0.7 * latents + 0.7 * noise, torch.zeros(8, 1, 128)

    def likeness(answer):
        return torch.corrcoef(torch.stack([answer.flatten(), latents.flatten()]))[0, 1]

    carried = likeness(unet(noisy, 500, text).sample)
    assert carried > 0.85
    if num_channels == 48:  # it could have been taken as it is
        assert carried > likeness(pipeline.unet(noisy, 500, text).sample) + 0.1
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    negated = diffusion_models.carry_over(pipeline, vae, corpus.images)
    assert torch.equal(negated.conv_out.weight, -unet.conv_out.weight)


@torch.no_grad()
def test_a_unet_goes_on_with_its_own_autoencoder_as_it_was(corpus):
    pipeline = load_pipeline(resolve_base("cyto-small", Path("models")))
    unet = diffusion_models.carry_over(pipeline, pipeline.vae, corpus.images)
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], weight), name


@torch.no_grad()
def test_images_encoded_anew_come_in_all_orientations_and_real_ones_in_more(corpus, monkeypatch):
    # Kept latents are compared to the last digit, which bfloat16 lacks on processors that have it.
    monkeypatch.setattr(latent_batches, "native_bfloat16", lambda *_: nullcontext())
    vae = new_autoencoder(48).eval()
    set_principal_components(vae, pixels_of(corpus, 30))
    real = dataclasses.replace(corpus, is_real=np.arange(len(corpus.images)) == 1)
    latents = latent_batches.FreshLatents(vae, real, "cpu", seed=0)

    def nearest(row):
        """Distances of 40 latents of an image to its nearest orientation."""
        generated = latents.minibatch(np.full(40, row), np.random.default_rng(0))
        one = dataclasses.replace(
            corpus, images=corpus.images[[row]], class_ids=corpus.class_ids[[row]]
        )
        eight = latent_batches.encode_corpus(vae, one, range(8))[0].float()
        apart = (generated[:, None] - eight).abs().amax((2, 3, 4))
        return apart.amin(1), set(apart.argmin(1).tolist())

    apart, orientations = nearest(0)
    assert apart.max() < 0.02 and orientations == set(range(8))  # kept latents have 16 bits
    apart, _ = nearest(1)
    assert 5 < (apart < 0.02).sum() < 35


def test_paths_are_those_of_diffusers_pipeline(tmp_path):
    shutil.copytree("models/cyto-small", tmp_path / "base")
    paths = guided_paths.sample_paths("base", Teacher("unipc", 6, 3, 2.0), 5, 4, tmp_path)
    base = resolve_base("base", tmp_path)
    pipeline = load_pipeline(base)
    assert len(guided_paths.embed(pipeline, base)) == 30  # every class, real and as a phantom
    assert paths.points.shape == (4, 3, 48, 8, 8) and paths.prompts.tolist() == [5, 6, 7, 8]
    pipeline.scheduler = build_scheduler("unipc", dict(pipeline.scheduler.config))
    prompts = guided_paths.all_prompts(base.class_ids, has_real=True)
    generated = pipeline(
        [prompts[i] for i in paths.prompts],
        num_inference_steps=6,
        guidance_scale=2.0,
        latents=paths.points[:, 0].float(),
        output_type="latent",
    ).images
    assert (generated - paths.points[:, -1]).abs().mean() < 0.02  # 16-bit arithmetic


def test_a_bespoke_solver_begins_as_the_steps_of_diffusers():
    pipeline = load_pipeline(resolve_base("cyto-small", Path("models")))
    coefficients = fit_solver.Coefficients(dict(pipeline.scheduler.config), 4, 2)
    scheduler = build_scheduler("unipc", dict(pipeline.scheduler.config))
    scheduler.set_timesteps(4)
    assert coefficients.timesteps().tolist() == pytest.approx(
        scheduler.timesteps.tolist(), rel=1e-4
    )
    noise = sample = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(0))

    def model(x, t, guided):
        return torch.tanh(x + t / 700), (x if guided else None)

    for t in scheduler.timesteps:
        sample = scheduler.step(model(sample, t, False)[0], t, sample, return_dict=False)[0]
    torch.testing.assert_close(coefficients(noise, model), sample, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        coefficients.guidances[-1, 0] = 0.5  # of the guidance in the first step, which is the noise
    moved = coefficients(noise, model) - sample
    torch.testing.assert_close(moved, 0.5 * noise, atol=1e-3, rtol=1e-3)


def test_a_clip_base_loads_as_an_open_clip_folder(corpus, tmp_path):
    train_clip.train(corpus, tmp_path / "clip", A_STEP_OR_TWO, 0)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'clip'}").eval()
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 128)


@pytest.mark.parametrize("any_real", [False, True])
def test_a_resnet_base_is_what_a_classifier_can_start_from(corpus, tmp_path, any_real):
    seen = dataclasses.replace(corpus, is_real=np.arange(len(corpus.class_ids)) % 2 == 0)
    train_resnet.run(seen if any_real else corpus, tmp_path / "own", 1, 0)
    manifest = {"kind": "resnet_base", "architecture": "resnet18"}
    (tmp_path / "own" / "manifest.json").write_text(json.dumps(manifest))
    config = ClassifierConfig("resnet18", ("eosinophil", "monocyte"), 64)
    model = build_model(config, tmp_path)
    load_initial_weights(model, resolve_resnet_base("own", "resnet18", tmp_path))
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_measured_figure_stands_in_manifest_and_card(tmp_path):
    manifest = export.new_manifest("clip_base", tmp_path, "m", None, {"steps": 1})
    export.write(tmp_path, manifest | {"description": "d", "recipe": "r", "figures": {}})
    export.record_figure(tmp_path, "Agreement", "71 %")
    assert json.loads((tmp_path / "manifest.json").read_text())["figures"] == {"Agreement": "71 %"}
    card = (tmp_path / "README.md").read_text()
    assert "| Agreement | 71 % |" in card
    assert "never seen a real cell" in card
    assert "not a medical device" in card


def test_a_shipped_configuration_names_no_local_path(tmp_path):
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    config.write_text('{"_name_or_path": "/home/me/unet", "sample_size": 8}')
    export.remove_local_paths(tmp_path)
    assert json.loads(config.read_text()) == {"sample_size": 8}
    shipped = list(Path(export.__file__).parents[1].glob("models/cyto-*/**/config.json"))
    assert len(shipped) >= 6
    assert not [path for path in shipped if "_name_or_path" in path.read_text()]
