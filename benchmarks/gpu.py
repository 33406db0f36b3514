"""What one GPU draws: the engine and plain diffusers on Stable Diffusion 2.1-base at 512 px.

    python -m benchmarks.gpu [--out out/bench] [--minutes 8]      # on a CUDA device
    python -m benchmarks.gpu --tiny                               # on a CPU, in seconds

The architecture is built here, its weights are random: speed does not depend on them.  Figures
are in ``gpu.json`` as soon as their section ends; a section that failed, or had no time left, says
so there, and the exit status is 1.  ``gpu-profile.txt`` lists the kernels that a step spends most
on.  Plain diffusers makes images and our rates include writing them as PNG, which favours it.

Needs no Ray, gRPC or network: beside torch (2.11 is enough) and torchvision only accelerate,
diffusers, fsspec, imagehash, numpy, peft, pillow, pydantic-settings, safetensors, scipy,
sqlalchemy, transformers, and what those need themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.cost import DECODE_TFLOP, PEAK_TFLOPS, UNET_TFLOP, tflop_per_image
from benchmarks.in_process import InProcess, pixels
from services.common.cell_classes import class_prompt
from services.common.errors import DomainError
from services.common.images import encode_image
from services.common.lora import WEIGHTS_FILE, LoraSpec, add_lora, lora_file
from services.generator.row_tables import EMPTY
from services.generator.sampler import Advance, Condition, Sampler
from services.generator.solver import build_scheduler, build_solver
from services.generator.synthesize import PRESETS, DrawnImage, SynthesisPlan

Found = dict[str, Any]
TARGETS = {"paper": {"least": 4.0, "aim": 6.0}, "fast": {"least": 60.0}}
"""Images per second of one H100."""
NUM_ADAPTERS, LORA_RANK, LORA_SCALE = 10, 16, 0.02  # the scale is that of their B matrices
CLASS_ID, SCRIPT_BATCH = "myeloblast", 10
KERNEL_GROUPS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("normalisation", r"norm|rowwisemoments|computefusedparams|welford"),
    ("copies", r"copy|memcpy|memset|nchwtonhwc|nhwctonchw|transpose|catarray|index|gather"),
    ("convolution", r"conv|fprop|winograd|cudnn"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|splitk|addmm|bmm|aten::mm"),
)
"""Kernels by name, the first that matches; the rest is pointwise."""


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        unet, vae, text: Configurations of the parts, where diffusers' defaults do not do.
        num_tokens: Length of a prompt.
        dtype: Arithmetic, as torch calls it.
        num_images: By preset; a multiple of ten.
        num_slots: UNet evaluations per step of the engine.
        batches: Of the UNet alone.
        repeats: Of what is timed call by call; the median counts.
        real: Whether a share of an H100's peak means anything and compiling is worth minutes.
    """

    unet: Found
    vae: Found
    text: Found
    num_tokens: int
    dtype: str
    num_images: dict[str, int]
    num_slots: int
    batches: tuple[int, ...]
    repeats: int
    real: bool

    def share(self, tflop: float, seconds: float) -> float | None:
        """Of an H100's peak, when so much arithmetic takes so long; None for the tiny model."""
        return tflop / seconds / PEAK_TFLOPS if self.real else None


_KL = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
# The configurations of stabilityai/stable-diffusion-2-1-base, whose `attention_head_dim` counts
# heads; its vocabulary of 49,408 pieces is not needed.
FULL = Workload(
    unet={"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
    | {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024}
    | {"use_linear_projection": True},
    vae=_KL | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    text={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    | {"num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512},
    num_tokens=77,
    dtype="bfloat16",
    num_images={"paper": 80, "balanced": 160, "fast": 480},
    num_slots=32,
    batches=(16, 32, 64),
    repeats=10,
    real=True,
)
TINY = Workload(
    unet={"sample_size": 8, "block_out_channels": (16,) * 4, "layers_per_block": 1}
    | {"attention_head_dim": (2,) * 4, "cross_attention_dim": 16, "norm_num_groups": 4}
    | {"use_linear_projection": True},
    vae=_KL | {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4},
    text={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "projection_dim": 16},
    num_tokens=40,
    dtype="float32",
    num_images={"paper": 10, "balanced": 10, "fast": 20},
    num_slots=16,
    batches=(2,),
    repeats=2,
    real=False,
)


class Bench:
    """A report that grows by sections and is on disk after each."""

    def __init__(
        self,
        path: Path,
        seconds: float,
        about: Found,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """Start the clock.

        Args:
            path: The report.
            seconds: Until all is given up, even a section within a call that never returns.
            about: What was measured on.
            leave: Ends the process with a status.
        """
        self.sections: dict[str, Found] = {}
        self._path, self._about, self._leave = path, about, leave
        self._running, self._lock = "", threading.Lock()
        self._started = time.monotonic()
        self._watch = threading.Timer(seconds, self._run_out)
        self._watch.daemon = True
        self._watch.start()

    @property
    def failed(self) -> bool:
        """Whether anything could not be measured."""
        return any("error" in found for found in self.sections.values())

    def section(self, name: str, measure: Callable[[], Found]) -> Found | None:
        """Measure, and keep what came out; or else why nothing did, and None."""
        started, self._running = time.monotonic(), name
        try:
            found = measure()
        except Exception as error:
            trace = traceback.format_exc().splitlines()[-8:]
            found = {"error": f"{type(error).__name__}: {error}", "traceback": trace}
        found = rounded(found | {"seconds": time.monotonic() - started})
        print(f"{name}: {json.dumps(found | {'traceback': None})}", flush=True)
        with self._lock:
            self.sections[name], self._running = found, ""
            self._write()
        return None if "error" in found else found

    def end(self) -> None:
        """Stop the clock."""
        self._watch.cancel()

    def _run_out(self) -> None:
        with self._lock:
            self.sections[self._running or "the rest"] = {"error": "time ran out"}
            self._write()
            print("time ran out", flush=True)
            self._leave(1)

    def _write(self) -> None:
        seconds, best = time.monotonic() - self._started, best_rates(self.sections)
        targets = {preset: {**goal, "measured": best[preset]} for preset, goal in TARGETS.items()}
        report = self._about | {"seconds": seconds, "targets": targets, "sections": self.sections}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps(rounded(report), indent=1) + "\n")
        draft.replace(self._path)


def best_rates(sections: dict[str, Found]) -> dict[str, float | None]:
    """Images per second of each preset with one adapter, eager or compiled; None if unknown."""
    rates: dict[str, float | None] = dict.fromkeys(PRESETS)
    for name, found in sections.items():
        _, preset, adapters = f"{name}..".split(".")[:3]
        if adapters == "one" and "images_per_second" in found:
            rates[preset] = max(rates[preset] or 0.0, found["images_per_second"])
    return rates


def rounded(value: Any) -> Any:
    """JSON with four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Machine:
    """The device, a models folder with one random base, and adapters for it."""

    def __init__(self, folder: Path, workload: Workload, device: str) -> None:
        self.folder, self.workload, self.device = folder, workload, device
        self.base = folder / "models" / "sd21"
        self.files: list[bytes] = []

    def seconds(self, call: Callable[[], object]) -> tuple[float, float]:
        """Medians: until the call returns, and until the device is done with it."""
        times = []
        for i in range(self.workload.repeats + 2):
            self.synchronize()
            started = time.perf_counter()
            call()
            returned = time.perf_counter()
            self.synchronize()
            if i >= 2:
                times.append((returned - started, time.perf_counter() - started))
        launched, done = (statistics.median(part) for part in zip(*times, strict=True))
        return launched, done

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def build(self) -> Found:
        """Write the base and the adapters; time the bare UNet, which nothing here can outrun."""
        torch.manual_seed(0)
        pipeline = build_pipeline(self.workload, self.device)
        pipeline.to(dtype=getattr(torch, self.workload.dtype))
        pipeline.save_pretrained(self.base, safe_serialization=True)
        unet = pipeline.unet.to(memory_format=torch.channels_last)
        found: Found = {}
        with torch.inference_mode():
            for batch in self.workload.batches:
                shape = (unet.config.in_channels, *[unet.config.sample_size] * 2)
                noise = torch.randn(batch, *shape, device=self.device, dtype=unet.dtype)
                noise = noise.contiguous(memory_format=torch.channels_last)
                prompts = (self.workload.num_tokens, unet.config.cross_attention_dim)
                tokens = torch.randn(batch, *prompts, device=self.device, dtype=unet.dtype)
                times = torch.full((batch,), 500.0, device=self.device)
                launched, done = self.seconds(partial(unet, noise, times, tokens))
                share = self.workload.share(batch * UNET_TFLOP, done)
                found[f"unet_of_{batch}"] = {"ms": 1e3 * done, "launch_ms": 1e3 * launched}
                found[f"unet_of_{batch}"]["share_of_peak"] = share
        parameters = add_lora(pipeline, LoraSpec(LORA_RANK, LORA_RANK), seed=0)
        for _ in range(NUM_ADAPTERS):
            for name, parameter in parameters.items():
                if ".lora_B." in name:
                    torch.nn.init.normal_(parameter, std=LORA_SCALE)
            self.files.append(lora_file(pipeline))
        return found

    def plain_diffusers(self) -> Found:
        """The pipeline with one adapter loaded, and the paper's steps, ten images at a time."""
        paper = PRESETS["paper"]
        pipeline = StableDiffusionPipeline.from_pretrained(
            self.base, dtype=getattr(torch, self.workload.dtype), safety_checker=None
        ).to(self.device)
        pipeline.scheduler = build_scheduler(paper.scheduler, dict(pipeline.scheduler.config))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / WEIGHTS_FILE).write_bytes(self.files[0])
            pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)
        pipeline.set_progress_bar_config(disable=True)

        def draw(num_steps: int) -> float:
            started = time.perf_counter()
            prompts = [class_prompt(CLASS_ID)] * SCRIPT_BATCH
            scale = paper.guidance_scale
            pipeline(prompts, num_inference_steps=num_steps, guidance_scale=scale)
            return SCRIPT_BATCH / (time.perf_counter() - started)

        draw(2)
        rate = statistics.mean(draw(paper.num_steps) for _ in range(2))
        share = self.workload.share(tflop_per_image(paper), 1 / rate)
        return {"images_per_second": rate, "share_of_peak": share}

    def studio(self, compiled: bool) -> InProcess:
        """An engine of its own, adapters in its store; nothing is loaded yet."""
        values = {"NUM_SLOTS": self.workload.num_slots, "DTYPE": self.workload.dtype}
        values |= {"COMPILE": compiled, "DEVICE": self.device, "ADAPTER_MEMORY_MB": 1024}
        names = {f"CYTOSYNTH_GENERATOR_{name}": str(value) for name, value in values.items()}
        with mock.patch.dict(os.environ, names):
            uri = f"file://{self.folder}/store-{'compiled' if compiled else 'eager'}"
            studio = InProcess(uri, self.folder / "models")
        revision = studio.plan({CLASS_ID: 1}, PRESETS["fast"], "sd21").base_revision
        for i, data in enumerate(self.files):
            draft = studio.store.new_draft("local", "adapters", f"bench{i}")
            draft.write(f"shared/{WEIGHTS_FILE}", data)
            body = {"layout": "shared", "class_ids": [CLASS_ID]}
            draft.commit({"base": "sd21", "base_revision": revision, "body": body})
        return studio


def build_pipeline(workload: Workload, device: str) -> StableDiffusionPipeline:
    """Random float32 weights, made on ``device``, where that is quick."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    length = workload.num_tokens
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    marks = {f"{m}_token_id": getattr(tokenizer, f"{m}_token_id") for m in ("bos", "eos", "pad")}
    text = {"vocab_size": len(pieces), "max_position_embeddings": length, **workload.text, **marks}
    with torch.device(device):
        unet = UNet2DConditionModel(**workload.unet)
        size = unet.config.sample_size * 8
        vae = AutoencoderKL(**workload.vae, latent_channels=4, sample_size=size)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text))
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(**schedule, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def draw(studio: InProcess, plans: Sequence[SynthesisPlan]) -> list[DrawnImage]:
    """The images of all plans at once; where the engine broke, why."""
    try:
        return studio.draw(plans)
    except DomainError as error:
        causes = [engine.broken for engine in studio.drawer.engines if engine.broken]
        raise (causes[0] if causes else error) from error


def plan(
    studio: InProcess, preset: str, num_images: int, adapter: int, seed: int = 0, bulk: bool = True
) -> SynthesisPlan:
    """Images of one adapter; not bulk: ahead of bulk work."""
    counts = {CLASS_ID: num_images}
    made = studio.plan(counts, PRESETS[preset], "sd21", f"bench{adapter}", seed)
    return replace(made, interactive=not bulk)


def start(studio: InProcess) -> Found:
    """Load the base and all adapters; prove that bits are equal; compile, if so, for both proofs.

    The first proof is of the bare base, the second with the first adapter's layers.
    """
    draw(studio, [plan(studio, "fast", 1, i) for i in range(NUM_ADAPTERS)])
    return {"batch_sizes": str(the_sampler(studio).batch_sizes)}


def the_sampler(studio: InProcess) -> Sampler:
    """That of the one engine; it must have nothing to do while it is used here."""
    [engine] = studio.drawer.engines
    return engine._sampler


def exactness(studio: InProcess) -> Found:
    """An image drawn alone and among those of nine other adapters and of all presets."""
    wanted = plan(studio, "balanced", 1, 0, seed=7)
    others = [plan(studio, p, 2, i) for i in range(1, NUM_ADAPTERS) for p in PRESETS]
    alone = pixels(draw(studio, [wanted])[0])
    among = pixels(draw(studio, [*others, wanted])[-1])
    other_adapter = pixels(draw(studio, [plan(studio, "balanced", 1, 1, seed=7)])[0])
    difference = int(np.abs(alone.astype(int) - among).max())
    if difference:
        raise AssertionError(f"among others an image differs by up to {difference} of 255")
    clipped = float(np.isin(alone, (0, 255)).mean())
    changed = float((alone != other_adapter).mean())
    if clipped > 0.5 or changed < 0.1:
        raise AssertionError(f"equality proves nothing: {clipped=:.2f}, {changed=:.2f} by adapter")
    return {"bit_identical": True, "num_others": 2 * len(others), "changed_by_adapter": changed}


def rate(studio: InProcess, workload: Workload, preset: str, num_adapters: int) -> Found:
    """Images per second of so many requests at once, from the first asked to the last as PNG."""
    each = workload.num_images[preset] // num_adapters
    plans = [plan(studio, preset, each, i, seed=1) for i in range(num_adapters)]
    started = time.perf_counter()
    value = len(draw(studio, plans)) / (time.perf_counter() - started)
    share = workload.share(tflop_per_image(PRESETS[preset]), 1 / value)
    return {"images_per_second": value, "share_of_peak": share}


def first_image(studio: InProcess, workload: Workload) -> Found:
    """Seconds to one image of the default preset: the median of idle ones, and one under load."""

    def one(seed: int) -> float:
        started = time.perf_counter()
        draw(studio, [plan(studio, "balanced", 1, 1, seed, bulk=False)])
        return time.perf_counter() - started

    idle = statistics.median(one(seed) for seed in range(5))
    bulk = [plan(studio, "paper", workload.num_images["paper"] // 2, 0, seed=2)]
    load = threading.Thread(target=draw, args=(studio, bulk))
    load.start()
    time.sleep(idle)
    loaded = one(9)
    was_loaded = load.is_alive()
    load.join()
    return {"idle_seconds": idle, "loaded_seconds": loaded, "load_lasted": was_loaded}


def step(machine: Machine, studio: InProcess, out: Path) -> Found:
    """One step of a whole guided batch with ten adapters: what it takes, and on what.

    ``launch_ms`` near ``ms`` means that the host cannot keep up; ``idle_ms`` is what no kernel
    fills.  Images are encoded by one thread, so ``png_ms_per_image`` bounds their rate, too.
    """
    sampler, workload = the_sampler(studio), machine.workload
    solver = build_solver("ddim", dict(sampler.pipeline.scheduler.config), 50)
    num_images = sampler.num_rows // 2
    prompts = sampler.lora.prompts.filled

    def advances(adapters: Sequence[int]) -> list[Advance]:
        found = []
        for i in range(num_images):
            sampler.begin(i, i, solver.noise_scale)
            adapter, first = adapters[i % len(adapters)], 2 * i % len(prompts)
            told = [Condition(adapter, prompts[(first + j) % len(prompts)]) for j in range(2)]
            timestep = float(solver.timesteps[0])
            found.append(Advance(i, timestep, solver.steps[0], told[1], told[0], 2.0))
        return found

    bare, full = advances([EMPTY]), advances(sampler.lora.adapters.filled)
    _, without = machine.seconds(lambda: sampler.step(bare))
    launched, done = machine.seconds(lambda: sampler.step(full))
    decoded = range(sampler.decode_batch_size)
    _, decode = machine.seconds(lambda: sampler.decode(decoded))
    kernels = kernel_ms(lambda: sampler.step(full), machine)
    write_profile(out, f"one step of {sampler.num_rows} rows", kernels)
    write_profile(out, "one decoding", kernel_ms(lambda: sampler.decode(decoded), machine))
    groups: dict[str, float] = {}
    for (name, _), milliseconds in kernels.items():
        groups[kernel_group(name)] = groups.get(kernel_group(name), 0.0) + milliseconds
    [image] = sampler.decode([0])
    assert image is not None
    begun = time.perf_counter()
    encode_image(image)
    encode = time.perf_counter() - begun
    return {
        "rows": sampler.num_rows,
        "ms": 1e3 * done,
        "launch_ms": 1e3 * launched,
        "without_lora_ms": 1e3 * without,
        "kernel_ms": groups,
        "idle_ms": max(0.0, 1e3 * done - sum(groups.values())),
        "share_of_peak": workload.share(sampler.num_rows * UNET_TFLOP, done),
        "decode_ms_per_image": 1e3 * decode / len(decoded),
        "decode_share_of_peak": workload.share(len(decoded) * DECODE_TFLOP, decode),
        "png_ms_per_image": 1e3 * encode,
    }


def kernel_group(name: str) -> str:
    """What a kernel does, by its name."""
    found = (group for group, pattern in KERNEL_GROUPS if re.search(pattern, name.lower()))
    return next(found, "pointwise and other")


def kernel_ms(call: Callable[[], object], machine: Machine) -> dict[tuple[str, int], float]:
    """Milliseconds by kernel (on a CPU: operator) and number of calls, longest first."""
    cuda = machine.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    machine.synchronize()
    with profile(activities=activities) as recorded:
        call()
        machine.synchronize()
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    part = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    found = {
        (event.key, event.count): getattr(event, part) / 1e3
        for event in recorded.key_averages()
        if event.device_type == kind and not event.is_user_annotation
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def write_profile(path: Path, title: str, kernels: dict[tuple[str, int], float]) -> None:
    """Add the 15 longest kernels to the text."""
    total = sum(kernels.values())
    lines = [f"{title}: {total:.2f} ms in {len(kernels)} kinds of kernels", ""]
    lines += [
        f"{ms:9.3f} ms {ms / total:6.1%} {count:5d} calls  {kernel_group(name):20} {name[:120]}"
        for (name, count), ms in list(kernels.items())[:15]
    ]
    with path.open("a") as file:
        file.write("\n".join([*lines, "", ""]))


def measure_engine(bench: Bench, machine: Machine, compiled: bool, profile_path: Path) -> None:
    """All of one engine; nothing more where it does not start."""
    name, workload = "compiled" if compiled else "eager", machine.workload
    studio = machine.studio(compiled)
    if bench.section(f"{name}.start", lambda: start(studio)) is None:
        return
    bench.section(f"{name}.exactness", lambda: exactness(studio))
    for preset in ("paper", "fast", "balanced"):
        for label, num in (("one", 1), ("ten", NUM_ADAPTERS)):
            section = f"{name}.{preset}.{label}"
            bench.section(section, partial(rate, studio, workload, preset, num))
    bench.section(f"{name}.first_image", lambda: first_image(studio, workload))
    with profile_path.open("a") as file:
        file.write(f"== {name} ==\n\n")
    bench.section(f"{name}.step", lambda: step(machine, studio, profile_path))
    for engine in studio.drawer.engines:
        engine.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; 1 if something could not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/bench")))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all, imports included")
    parser.add_argument("--slots", type=int, help="rows of the engine's batch")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU, eager")
    args = parser.parse_args(arguments)
    workload = TINY if args.tiny else FULL
    workload = replace(workload, num_slots=args.slots or workload.num_slots)
    device = "cpu" if args.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny runs without")
    about: Found = {
        "architecture": "tiny" if args.tiny else "Stable Diffusion 2.1-base, 512 px",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "dtype": workload.dtype,
        "num_slots": workload.num_slots,
        "tflop": {"unet": UNET_TFLOP, "decode": DECODE_TFLOP, "peak_per_second": PEAK_TFLOPS},
    }
    profile_path = args.out / "gpu-profile.txt"
    args.out.mkdir(parents=True, exist_ok=True)
    profile_path.write_text("")
    bench = Bench(args.out / "gpu.json", 0.95 * 60 * args.minutes, about)
    try:
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine(Path(folder), workload, device)
            if bench.section("build", machine.build) is not None:
                bench.section("diffusers", machine.plain_diffusers)
                measure_engine(bench, machine, False, profile_path)
                if workload.real:
                    measure_engine(bench, machine, True, profile_path)
    finally:
        bench.end()
    return int(bench.failed)


if __name__ == "__main__":
    raise SystemExit(main())
