"""Progress of a study over all its parts, in optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable

from services.trainer.compute.training_run import PHASE_TRAIN_CLASSIFIER, ProgressFn
from services.trainer.studies.recipe import ZERO_SHOT, StudySettings, Trial, hyperparameters_of
from services.trainer.studies.workers.parts import StudyPart, TrialPart


class StudyProgress:
    """Sums and reports the progress of parts that run concurrently."""

    def __init__(self, report: ProgressFn, study: StudySettings) -> None:
        """Begins at nothing done; ``report`` is the job's."""
        self._report, self._study = report, study
        self._running: dict[StudyPart, int] = {}
        """Steps done by each part that is running."""
        self._metrics: dict[str, float] = {}
        self._phase, self._done = "starting", 0
        numbers = range(study.num_draws)
        self._total = sum(self._steps(trial) for n in numbers for trial in study.trials(n))

    def skip(self, trials: Iterable[Trial]) -> None:
        """Counts trials that were finished before."""
        self._done += sum(map(self._steps, trials))

    def note(self, part: StudyPart, phase: str, step: int, metrics: dict[str, float]) -> None:
        """Notes how far a part is."""
        trained = step if phase == PHASE_TRAIN_CLASSIFIER else self._running.get(part, 0)
        self._running[part] = trained
        self._metrics = metrics

    def finished(self, part: StudyPart) -> None:
        """Notes that a part is finished."""
        self._running.pop(part, None)
        if isinstance(part, TrialPart):
            self._done += self._steps(part.trial)

    def report(self) -> None:
        """Reports what was noted; raises what the job's progress raises."""
        labels: dict[int, dict[str, None]] = {}
        for part in sorted(self._running, key=lambda part: (part.replicate, part.label)):
            labels.setdefault(part.replicate, {})[part.label] = None
        if labels:
            self._phase = "; ".join(
                f"draw {number + 1} of {self._study.num_draws}: {'; '.join(of_replicate)}"
                for number, of_replicate in labels.items()
            )
        done = self._done + sum(self._running.values())
        self._report(self._phase, done, self._total, self._metrics)

    def _steps(self, trial: Trial) -> int:
        return 0 if trial.arm == ZERO_SHOT else hyperparameters_of(self._study, trial).num_steps
