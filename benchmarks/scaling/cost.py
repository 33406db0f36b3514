"""GPU-hours and money for many images, for docs/cost.md.

    python -m benchmarks.scaling.cost [--measured out/bench/generator.json]

Writes the tables into the page; with ``--measured``, the measured row anew from that file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from services.generator.presets import PRESETS, SamplerSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost.md"

# Stable Diffusion 2.1-base at 512 px, counted from its layers (one multiply-add is 2 FLOP).
UNET_TFLOP = 0.80
DECODE_TFLOP = {"full": 2.5, "tiny": 0.14}  # tiny: TAESD
# Assumed, not measured: no GPU was at hand.
GPU = "H100 SXM"
PEAK_TFLOPS = 989.0  # bf16, dense; NVIDIA's data sheet
SHARE_OF_PEAK = 0.34
USD_PER_GPU_HOUR = (2.0, 4.0)
FLEET_EFFICIENCY = 0.9
"""Efficiency of many replicas; the simulation's test asks it of 64."""

NUM_IMAGES_PAPER = 75_000  # 15 classes of 5,000
NUM_IMAGES_MANY = 10_000_000


@dataclass(frozen=True)
class Measured:
    """A run on hardware that we had; keys of ``out/bench/generator.json``."""

    hardware: str
    base: str
    preset: str
    images_per_second: float


def tflop_per_image(sampler: SamplerSettings) -> float:
    """TFLOP of one image: two UNet evaluations a step, and the decoding."""
    scales = sampler.guidance_scales(sampler.num_steps)
    evaluations = sum(1 if scale is None else 2 for scale in scales)
    return evaluations * UNET_TFLOP + DECODE_TFLOP[sampler.decoder]


def assumed_images_per_second(sampler: SamplerSettings) -> float:
    """Images per second of a GPU at its assumed share of peak."""
    return SHARE_OF_PEAK * PEAK_TFLOPS / tflop_per_image(sampler)


def gpu_hours(num_images: int, images_per_second: float, efficiency: float = 1.0) -> float:
    """Hours of all devices together, at the rate of a busy one."""
    return num_images / (images_per_second * efficiency) / 3600


def extrapolated_table() -> str:
    """Markdown table of presets: rate, hours and money."""
    rows = [
        "| preset | steps | TFLOP per image | images/s per GPU "
        f"| {NUM_IMAGES_PAPER:,}: GPU-hours | USD | {NUM_IMAGES_MANY:,}: GPU-hours | USD |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, sampler in PRESETS.items():
        rate = assumed_images_per_second(sampler)
        cells = [name, str(sampler.num_steps), f"{tflop_per_image(sampler):.1f}", f"{rate:.2f}"]
        for num_images in (NUM_IMAGES_PAPER, NUM_IMAGES_MANY):
            hours = gpu_hours(num_images, rate, FLEET_EFFICIENCY)
            low, high = (hours * price for price in USD_PER_GPU_HOUR)
            cells += [f"{hours:,.1f}", f"{low:,.0f} to {high:,.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def measured_table(runs: Sequence[Measured]) -> str:
    """Markdown table of measured rates and the hours of that device."""
    rows = [
        "| hardware | base | preset | images/s "
        f"| {NUM_IMAGES_PAPER:,}: hours | {NUM_IMAGES_MANY:,}: hours |",
        "|---|---|---|--:|--:|--:|",
    ]
    for run in runs:
        hours = [gpu_hours(n, run.images_per_second) for n in (NUM_IMAGES_PAPER, NUM_IMAGES_MANY)]
        figures = f"{run.images_per_second:.2f} | {hours[0]:,.1f} | {hours[1]:,.1f}"
        rows.append(f"| {run.hardware} | {run.base} | {run.preset} | {figures} |")
    return "\n".join(rows if runs else [*rows, "| not measured yet | | | | | |"])


def refreshed(page: str, runs: Sequence[Measured] | None = None) -> str:
    """The page with its tables renewed, from ``runs`` or its own."""
    if runs is None:
        _, raw, _ = around(page, "runs")
        runs = [Measured(**run) for run in json.loads(raw.strip("\n`json"))]
    raw = json.dumps([asdict(run) for run in runs], indent=1)
    for name, text in {
        "extrapolated": extrapolated_table(),
        "measured": measured_table(runs),
        "runs": f"```json\n{raw}\n```",
    }.items():
        before, _, after = around(page, name)
        page = f"{before}\n\n{text}\n\n{after}"
    return page


def read_runs(path: Path) -> list[Measured]:
    """The runs in what the generator's benchmark wrote."""
    names = [field.name for field in fields(Measured)]
    return [
        Measured(**{name: run[name] for name in names})
        for run in json.loads(path.read_text())["runs"]
    ]


def around(page: str, name: str) -> tuple[str, str, str]:
    """The page before a mark, up to the mark's end, and after."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    before, rest = page.split(start)
    between, after = rest.split(end)
    return before + start, between, end + after


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, help="out/bench/generator.json")
    arguments = parser.parse_args()
    runs = read_runs(arguments.measured) if arguments.measured else None
    PAGE.write_text(refreshed(PAGE.read_text(), runs))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
