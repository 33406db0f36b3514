"""Presets of the sampler, and what a request may change in them.

Every setting is checked here, against its range and against what the base has.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from services.common.errors import InvalidArgument, check_one_of, shown
from services.common.models.sampler_presets import SAMPLER_PRESETS

if TYPE_CHECKING:
    from services.common.models.bespoke_solvers import BespokeSolver
    from services.common.models.diffusion_bases import Base
    from services.generator.request import SynthesisRequest

MAX_NUM_STEPS = 1000
MAX_GUIDANCE_SCALE = 30.0
BESPOKE = "bespoke"
SCHEDULERS = ("dpmpp_2m", "ddim", "unipc")
DECODERS = ("full", "tiny")
DEFAULT_PRESET = "balanced"


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the sampler; an image depends on every one of them.

    Attributes:
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance (Ho and Salimans 2022); 1 switches it off.
        scheduler: One of ``SCHEDULERS``, or "bespoke": the base's own solver, whose steps and
            guidance are fixed (``services/common/models/bespoke_solvers.py``).
        guidance_start: Share of the steps, 0 to 1, at which guidance begins
            (Kynkäänniemi et al. 2024).
        guidance_stop: Share of the steps at which guidance ends.
        decoder: One of ``DECODERS``; both give the same cell.
        distilled: With the base's distillation LoRA; "accelerated" in manifests.
    """

    num_steps: int
    guidance_scale: float
    scheduler: str
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    decoder: str = "full"
    distilled: bool = False

    def guidance_scales(self, num_steps: int) -> tuple[float | None, ...]:
        """Guidance scale of each step; None: without, at one evaluation.

        Args:
            num_steps: Steps that the scheduler really takes.
        """
        if self.guidance_scale == 1.0:
            return (None,) * num_steps
        return tuple(
            self.guidance_scale
            if self.guidance_start <= step / num_steps < self.guidance_stop
            else None
            for step in range(num_steps)
        )

    def to_dict(self) -> dict[str, int | float | str | bool]:
        """JSON form, without what is left at its default."""
        settings = asdict(self)
        distilled = settings.pop("distilled")
        if distilled:
            settings["accelerated"] = True
        if self.decoder == "full":
            del settings["decoder"]
        if (self.guidance_start, self.guidance_stop) == (0.0, 1.0):
            del settings["guidance_start"], settings["guidance_stop"]
        return settings


PRESETS = {
    "draft": SamplerSettings(num_steps=4, guidance_scale=1.0, scheduler="ddim", distilled=True),
    "fast": SamplerSettings(num_steps=5, guidance_scale=2.0, scheduler="unipc", guidance_stop=0.4),
    "balanced": SamplerSettings(
        num_steps=8, guidance_scale=2.0, scheduler="unipc", guidance_stop=0.8
    ),
    "paper": SamplerSettings(num_steps=50, guidance_scale=2.0, scheduler="ddim"),
}
"""4, 7, 15 and 100 UNet evaluations an image.

"balanced" is as good as "paper" by downstream macro-F1, "fast" only with a solver of the base's
own (``preset_of``; docs/lab-notebook.md). The names are ``SAMPLER_PRESETS``.
"""


def preset_of(name: str, base: Base) -> SamplerSettings:
    """The preset's settings on a base.

    "fast" is the base's bespoke solver if it has one; "draft" is "fast" with a base that has no
    distillation LoRA.

    Raises:
        InvalidArgument: If there is no preset of this name.
    """
    check_one_of("sampler.preset", name, SAMPLER_PRESETS)
    if name == "draft":
        if base.distillation_lora is not None:
            return replace(PRESETS[name], num_steps=base.distillation_lora.num_steps)
        name = "fast"
    if name == "fast" and base.bespoke_solver is not None:
        return _bespoke(base.bespoke_solver)
    return PRESETS[name]


def _bespoke(solver: BespokeSolver) -> SamplerSettings:
    return SamplerSettings(
        num_steps=solver.num_steps,
        guidance_scale=solver.guidance_scale,
        scheduler=BESPOKE,
        guidance_stop=solver.num_guided_steps / solver.num_steps,
    )


def sampler_settings(request: SynthesisRequest, base: Base) -> SamplerSettings:
    """The preset with the request's own values laid over it.

    Raises:
        InvalidArgument: For an unknown preset, scheduler or decoder; one that the base does not
            have; a number out of range, or one that its bespoke solver does not take.
    """
    settings = _scheduled(request, base)
    steps, guidance = request.num_steps, request.guidance_scale
    if steps is not None:
        if not 1 <= steps <= MAX_NUM_STEPS:
            remedy = f"send 1 to {MAX_NUM_STEPS}, or leave it out"
            raise InvalidArgument("sampler.num_steps", f"is {steps}", remedy)
        settings = replace(settings, num_steps=steps)
    if guidance is not None:
        if not math.isfinite(guidance) or not 0 <= guidance <= MAX_GUIDANCE_SCALE:
            remedy = f"send 0 to {MAX_GUIDANCE_SCALE:g}, or leave it out"
            raise InvalidArgument("sampler.guidance_scale", f"is {guidance}", remedy)
        settings = replace(settings, guidance_scale=float(guidance))
    start, stop = request.guidance_start, request.guidance_stop
    for name, share in (("guidance_start", start), ("guidance_stop", stop)):
        if share is not None and not 0 <= share <= 1:
            remedy = "send a share of the steps, 0 to 1, or leave it out"
            raise InvalidArgument(f"sampler.{name}", f"is {share}", remedy)
    settings = replace(
        settings,
        guidance_start=settings.guidance_start if start is None else start,
        guidance_stop=settings.guidance_stop if stop is None else stop,
    )
    if settings.guidance_start > settings.guidance_stop:
        problem = f"is {settings.guidance_start:g}, after guidance_stop"
        raise InvalidArgument("sampler.guidance_start", problem, "send at most guidance_stop")
    if request.decoder:
        if request.decoder not in DECODERS:
            problem = f"is {shown(request.decoder)}, not a decoder"
            remedy = f"send one of {', '.join(DECODERS)}"
            raise InvalidArgument("sampler.decoder", problem, remedy)
        if request.decoder == "tiny" and base.tiny_decoder is None:
            problem = f"is 'tiny', and base {base.name} has no tiny decoder"
            raise InvalidArgument("sampler.decoder", problem, "send full, or leave it out")
        settings = replace(settings, decoder=request.decoder)
    return settings


def _scheduled(request: SynthesisRequest, base: Base) -> SamplerSettings:
    """The preset with the request's scheduler.

    Numbers that a bespoke solver does not have select the general solver instead, unless the
    request names the bespoke one.
    """
    name, scheduler, solver = (
        request.preset or DEFAULT_PRESET,
        request.scheduler,
        base.bespoke_solver,
    )
    settings = preset_of(name, base)
    if not scheduler and settings.scheduler != BESPOKE:
        return settings
    general = preset_of(name, replace(base, bespoke_solver=None))
    if scheduler in SCHEDULERS:
        return replace(general, scheduler=scheduler)
    if solver is None or scheduler not in ("", BESPOKE):
        missing = f", and base {base.name} has no solver of its own"
        problem = f"is {shown(scheduler)}" + (
            missing if scheduler == BESPOKE else ", not a scheduler"
        )
        known = SCHEDULERS if solver is None else (*SCHEDULERS, BESPOKE)
        raise InvalidArgument("sampler.scheduler", problem, f"send one of {', '.join(known)}")
    settings = _bespoke(solver)
    for field in ("num_steps", "guidance_scale", "guidance_start", "guidance_stop"):
        asked, fixed = getattr(request, field), getattr(settings, field)
        if asked is None or asked == fixed:
            continue
        if not scheduler:
            return general
        problem = f"is {asked:g}, but the bespoke solver of base {base.name} has {fixed:g}"
        remedy = "leave it out, or send another scheduler"
        raise InvalidArgument(f"sampler.{field}", problem, remedy)
    return settings
