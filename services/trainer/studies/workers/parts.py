"""Parts of a study that can run concurrently, with their dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.trainer.studies.recipe import SYNTHETIC_ARMS, Trial


@dataclass(frozen=True)
class SyntheticImagesPart:
    """Fits the adapter of a replicate and generates its synthetic images."""

    replicate: int
    after: tuple[str, ...] = ()
    label = "adapter and synthetic images"

    @property
    def name(self) -> str:
        """Unique within the study."""
        return f"replicate-{self.replicate:02d}.images"


@dataclass(frozen=True)
class TrialPart:
    """Trains and tests one classifier."""

    trial: Trial
    after: tuple[str, ...] = ()

    @property
    def replicate(self) -> int:
        """Number of the replicate."""
        return self.trial.replicate

    @property
    def label(self) -> str:
        """Name in progress."""
        return self.trial.label

    @property
    def name(self) -> str:
        """Unique within the study."""
        return self.trial.path


@dataclass(frozen=True)
class MeasuresPart:
    """Measures quality and nearness of the synthetic images of a replicate."""

    replicate: int
    after: tuple[str, ...] = ()
    label = "image quality and privacy"

    @property
    def name(self) -> str:
        """Unique within the study."""
        return f"replicate-{self.replicate:02d}.measures"


StudyPart = SyntheticImagesPart | TrialPart | MeasuresPart


def replicate_parts(replicate: int, missing: Iterable[Trial], synthesizes: bool) -> list[StudyPart]:
    """Parts of one replicate, in the order in which they begin.

    Args:
        replicate: Number of the replicate.
        missing: Trials that are not finished.
        synthesizes: Whether any arm of the study uses synthetic images.
    """
    return list(_parts(replicate, list(missing), synthesizes))


def _parts(replicate: int, missing: list[Trial], synthesizes: bool) -> Iterator[StudyPart]:
    images: tuple[str, ...] = ()
    if synthesizes:
        yield (part := SyntheticImagesPart(replicate))
        images = (part.name,)
    # The others first: they fill the cores while the adapter is fitted.
    for trial in sorted(missing, key=lambda trial: trial.arm in SYNTHETIC_ARMS):
        yield TrialPart(trial, images if trial.arm in SYNTHETIC_ARMS else ())
    if synthesizes:
        yield MeasuresPart(replicate, images)
