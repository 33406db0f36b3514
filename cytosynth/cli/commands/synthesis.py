"""``synthesize`` and ``capabilities``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cytosynth.cli import show
from cytosynth.cli.global_options import caller, command
from cytosynth.cli.options import (
    SamplerPreset,
    connected,
    interruptible,
    parse_pairs,
)
from cytosynth.cli.words import SYNTHESIZE

_PANEL = "Synthetic cells"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    renamed = {"--preset": "--sampler-preset", "--steps": "--sampler-steps"}
    command(app, panel=_PANEL, renamed=renamed, words=SYNTHESIZE)(synthesize)
    command(app, panel=_PANEL)(capabilities)


def synthesize(
    out: Annotated[Path, typer.Option("--out", help="Folder for <class>/<index>.png.")],
    counts: Annotated[
        list[str] | None, typer.Argument(help="class=number …, for example myeloblast=100")
    ] = None,
    per_class: Annotated[
        int, typer.Option(help="Images of every class of the adapter, with --adapter.")
    ] = 0,
    adapter: Annotated[str, typer.Option(help="adapters/…; without it the base alone.")] = "",
    base: Annotated[str, typer.Option(help="Base model; default: the adapter's.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the whole request.")] = 0,
    sampler_preset: SamplerPreset = "",
    sampler_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    guidance_start: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the steps, 0 to 1, at which guidance begins; default: the preset's.",
        ),
    ] = None,
    guidance_stop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the steps, 0 to 1, at which guidance ends; default: the preset's.",
        ),
    ] = None,
    scheduler: Annotated[str, typer.Option(help="dpmpp_2m, ddim, unipc or bespoke.")] = "",
    decoder: Annotated[
        str, typer.Option(help="full or tiny (quicker, for bases that have one).")
    ] = "",
    priority: Annotated[
        str,
        typer.Option(
            help="interactive (goes first; few images only) or bulk; "
            "default: by the number of images."
        ),
    ] = "",
    image_format: Annotated[str, typer.Option("--format", help="png, jpeg or webp.")] = "png",
) -> None:
    """Synthesize cells into a folder in ImageFolder layout with metadata.jsonl.

    Interrupted, the same command again completes the folder.
    """
    from cytosynth.client import SamplerSettings, SynthesisSettings

    wanted = parse_pairs(counts or [], "COUNTS")
    if bool(wanted) == bool(per_class):
        raise typer.BadParameter("give class=number pairs, or --per-class with --adapter")
    if per_class and not adapter:
        raise typer.BadParameter(
            "needs --adapter, whose classes are meant", param_hint="--per-class"
        )
    with (
        interruptible("the same command again goes on from here"),
        connected() as client,
        show.meter(quiet=caller().json) as meter,
    ):
        if per_class:
            class_ids = client.get_adapter(adapter).class_ids
            wanted = dict.fromkeys(class_ids, per_class)
        done = client.synthesize_to_folder(
            out,
            wanted,
            SynthesisSettings(
                adapter=adapter,
                base=base,
                seed=seed,
                sampler=SamplerSettings(
                    sampler_preset,
                    sampler_steps,
                    guidance,
                    scheduler,
                    guidance_start,
                    guidance_stop,
                    decoder,
                ),
                priority=priority,
                image_format=image_format,
            ),
            on_progress=meter.counted("synthesizing"),
        )
    if caller().json:
        show.as_json(done)
        return
    before = f" ({done.num_resumed} were there)" if done.num_resumed else ""
    typer.echo(f"{done.folder}: {done.num_images} synthetic cells{before}. {show.RESEARCH_USE}")


def capabilities() -> None:
    """Show bases, presets and limits of the generator."""
    with connected() as client:
        found = client.capabilities()
    if caller().json:
        show.as_json(found)
        return
    rows = [
        (name, f"{found.image_size.get(name, '')}", "yes" if name == found.default_base else "")
        for name in found.bases
    ]
    show.table(("base", "image size, px", "default"), rows, numeric=("image size, px",))
    presets = [
        (
            name,
            settings.get("num_steps", ""),
            _guidance(settings),
            settings.get("scheduler", ""),
            settings.get("decoder", ""),
        )
        for name, settings in found.presets.items()
    ]
    show.table(("preset", "steps", "guidance", "scheduler", "decoder"), presets)
    typer.echo(
        f"at most {found.max_num_images} images per request; "
        f"{found.batch_size} UNet evaluations per batch"
    )


def _guidance(settings: Mapping[str, Any]) -> str:
    """Guidance scale and the share of steps with guidance."""
    scale = settings.get("guidance_scale", 1.0)
    start, stop = settings.get("guidance_start", 0.0), settings.get("guidance_stop", 1.0)
    if scale == 1.0:
        return "none"
    return f"{scale:g}" + ("" if (start, stop) == (0.0, 1.0) else f" in {start:.0%} to {stop:.0%}")
