"""``phantoms``: phantom cells as an ImageFolder tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytosynth.cli.global_options import command
from cytosynth.cli.options import Seed


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    renamed = {"--size": "--image-size"}
    command(app, panel="Whole pipeline", calls=False, json=False, renamed=renamed)(phantoms)


def phantoms(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must be new or empty.")],
    per_class: Annotated[int, typer.Option(min=1, help="Images per class.")] = 40,
    classes: Annotated[
        str, typer.Option(help="Class ids, separated by commas; default: all 15.")
    ] = "",
    laboratory: Annotated[
        str, typer.Option(help="demo, reference, or random (one that the seed chooses).")
    ] = "demo",
    seed: Seed = 0,
    image_size: Annotated[
        int, typer.Option(min=16, max=1024, help="Width and height of an image, pixels.")
    ] = 64,
) -> None:
    """Write phantom cells as an ImageFolder tree with labels.csv."""
    import numpy as np

    from cytosynth.phantoms import (
        CELL_TYPES,
        DEMO_HOSPITAL,
        REFERENCE,
        sample_laboratory,
        write_image_folder,
    )

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is not empty", param_hint="--out")
    wanted = [part.strip() for part in classes.split(",") if part.strip()] or list(CELL_TYPES)
    unknown = [class_id for class_id in wanted if class_id not in CELL_TYPES]
    if unknown:
        raise typer.BadParameter(
            f"no phantom of {unknown[0]!r}; there are {', '.join(CELL_TYPES)}",
            param_hint="--classes",
        )
    match laboratory:
        case "demo":
            chosen = DEMO_HOSPITAL
        case "reference":
            chosen = REFERENCE
        case "random":
            chosen = sample_laboratory(np.random.default_rng(seed))
        case _:
            raise typer.BadParameter("demo, reference or random", param_hint="--laboratory")
    write_image_folder(out, chosen, dict.fromkeys(wanted, per_class), seed, image_size)
    typer.echo(f"{out}: {per_class * len(wanted)} phantom cells of {len(wanted)} classes")
