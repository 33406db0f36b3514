"""A client's request to the generator, before anything is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SynthesisRequest:
    """A request as it came in, unchecked.

    Attributes:
        class_counts: (class id, number of images) in order.
        preset: Empty for the default; the next six overrule it where not None or empty.
        image_format: As Pillow calls it.
        interactive: Goes before bulk work; None: if it is small.
    """

    class_counts: Sequence[tuple[str, int]]
    seed: int = 0
    first_index: int = 0
    preset: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str = ""
    guidance_start: float | None = None
    guidance_stop: float | None = None
    decoder: str = ""
    image_format: str = "PNG"
    interactive: bool | None = None
