"""The GPU benchmark: the named model, and no failure hidden."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.generator.in_process import InProcess
from benchmarks.generator.recompiles import RecompileCounter
from benchmarks.gpu.profile import kernel_group
from benchmarks.gpu.report import Metrics, Report, best_throughput
from benchmarks.gpu.sections import build, exactness, start
from benchmarks.gpu.workload import FULL, NUM_ADAPTERS, TINY, Setup, build_pipeline
from benchmarks.scaling import cost
from services.common.errors import FailedPrecondition
from services.generator.engine.denoiser import Denoiser
from services.generator.plan import SynthesisPlan, SyntheticImage
from services.generator.presets import PRESETS


def test_the_model_is_sd21_base_and_as_costly_as_the_page_of_costs_says() -> None:
    pipeline = build_pipeline(FULL, "meta")
    unet, vae, text = pipeline.unet, pipeline.vae, pipeline.text_encoder
    # Weights of stabilityai/stable-diffusion-2-1-base, whose vocabulary is 49,408 and not 190.
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    vocabulary = len(pipeline.tokenizer)
    assert sum(p.numel() for p in text.parameters()) == 340_387_840 - (49_408 - vocabulary) * 1024
    latents = torch.empty(1, 4, 64, 64, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        unet(latents, latents[0, 0, 0, :1], torch.empty(1, 77, 1024, device="meta"))
    assert counted.get_total_flops() / 1e12 == pytest.approx(cost.UNET_TFLOP, rel=0.01)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        assert vae.decode(latents).sample.shape == (1, 3, 512, 512)
    assert counted.get_total_flops() / 1e12 == pytest.approx(cost.DECODE_TFLOP["full"], rel=0.01)
    with torch.device("meta"):
        tiny = AutoencoderTiny(**FULL.tiny_decoder)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        assert tiny.decode(latents).sample.shape == (1, 3, 512, 512)
    assert counted.get_total_flops() / 1e12 == pytest.approx(cost.DECODE_TFLOP["tiny"], rel=0.02)


def test_images_are_whole_batches_and_shares_of_ten_adapters() -> None:
    for preset, num in FULL.num_images.items():
        guided = PRESETS[preset].guidance_scale != 1
        assert num % (FULL.num_slots // (1 + guided)) == 0
        assert num % NUM_ADAPTERS == 0


def test_a_section_that_fails_is_recorded_and_the_next_goes_on(tmp_path: Path) -> None:
    report = Report(tmp_path / "gpu.json", 60, {})

    def fail() -> Metrics:
        raise RuntimeError("no memory left")

    assert report.section("first", fail) is None
    assert report.section("second", lambda: {"images_per_second": 2.0}) is not None
    report.close()
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["first"]["error"] == "RuntimeError: no memory left"
    assert sections["second"]["images_per_second"] == 2.0
    assert report.failed


def test_what_was_measured_is_kept_when_time_runs_out(tmp_path: Path) -> None:
    left = threading.Event()
    statuses = []

    def leave(status: int) -> None:
        statuses.append(status)
        left.set()

    report = Report(tmp_path / "gpu.json", 0.5, {"device": "toy"}, leave)
    report.section("eager.paper.one", lambda: {"images_per_second": 5.0})

    def hang() -> Metrics:
        assert left.wait(30)
        written = json.loads((tmp_path / "gpu.json").read_text())
        assert written["sections"]["eager.paper.one"]["images_per_second"] == 5.0
        assert written["sections"]["compiled.start"] == {"error": "time ran out"}
        assert written["targets"]["paper"] == {"least": 4.0, "aim": 6.0, "measured": 5.0}
        return {}

    assert report.section("compiled.start", hang) is not None
    assert statuses == [1]


def test_the_best_rate_is_of_one_adapter_whichever_way_it_ran() -> None:
    sections: dict[str, Metrics] = {
        "eager.paper.one": {"images_per_second": 3.0},
        "compiled.paper.one": {"images_per_second": 4.0},
        "compiled.paper.ten": {"images_per_second": 9.0},
        "diffusers": {"images_per_second": 8.0},
        "eager.fast.one": {"error": "time ran out"},
    }
    assert best_throughput(sections) == {
        "paper": 4.0,
        "fast": None,
        "balanced": None,
        "draft": None,
    }


def test_recompiles_on_another_thread_are_counted_and_past_the_limit_they_fail() -> None:
    limit = torch._dynamo.config.recompile_limit
    add_one = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    with RecompileCounter() as recompiles, ThreadPoolExecutor(1) as thread:
        for size in [1, 1, *range(2, limit + 1), 1]:
            thread.submit(add_one, torch.zeros(size)).result()
        assert recompiles.count == limit - 1
        with pytest.raises(FailOnRecompileLimitHit):
            thread.submit(add_one, torch.zeros(limit + 1)).result()


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    made = Setup(tmp_path_factory.mktemp("gpu"), TINY, "cpu")
    build(made)
    return made


def test_an_image_that_depends_on_its_neighbours_is_found(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = setup.new_generator(False)
    honest = InProcess.generate

    def leaky(generator: InProcess, plans: list[SynthesisPlan]) -> list[SyntheticImage]:
        images = honest(generator, plans)
        return images if len(plans) == 1 else [*images[1:], images[0]]

    assert exactness(generator)["bit_identical"]
    monkeypatch.setattr(InProcess, "generate", leaky)
    with pytest.raises(AssertionError, match="differs by up to"):
        exactness(generator)


def test_an_engine_that_broke_says_why(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Denoiser) -> None:
        raise FailedPrecondition("this machine", "gives other bits", "use float32")

    monkeypatch.setattr(Denoiser, "prove", refuse)
    generator = setup.new_generator(False)
    with pytest.raises(FailedPrecondition, match="gives other bits"):
        start(generator)


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "copies"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNN", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("void at::native::RowwiseMomentsCUDAKernel<c10::BFloat16>", "normalisation"),
        ("elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies"),
        ("vectorized_elementwise_kernel<4, silu_kernel>", "pointwise and other"),
    ],
)
def test_kernels_are_grouped_by_name(kernel: str, group: str) -> None:
    assert kernel_group(kernel) == group


def test_it_needs_neither_ray_nor_grpc() -> None:
    code = "import sys; sys.modules['ray'] = sys.modules['grpc'] = None; import benchmarks.gpu.run"
    root = Path(__file__).resolve().parents[4]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
