"""What an answer is to hold, and under which assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.answers.conformal import checked_coverage
from services.common.answers.priors import checked_priors
from services.common.errors import InvalidArgument


@dataclass(frozen=True)
class AnswerOptions:
    """Options of a call, as in the contract.

    Attributes:
        class_priors: Share of each class among the laboratory's cells; empty: that of training.
        estimate_priors: Estimates the shares from the images of the call.
        coverage: Chance with which a prediction set holds the true class; None: 0.9.
        top_k: Most probabilities to answer with; 0: all.
    """

    class_priors: Mapping[str, float] = field(default_factory=dict)
    estimate_priors: bool = False
    coverage: float | None = None
    top_k: int = 0

    def check(self, class_ids: Sequence[str], is_stream: bool = False) -> None:
        """Refuses options that cannot be met; needs no model.

        Args:
            class_ids: Classes of the classifier.
            is_stream: Whether images come one by one.

        Raises:
            InvalidArgument: Naming the field below ``options``.
        """
        if self.class_priors:
            checked_priors(self.class_priors, class_ids)
        path = "options.estimate_priors"
        if self.estimate_priors and self.class_priors:
            problem = "is set together with options.class_priors"
            raise InvalidArgument(path, problem, "leave one of them out")
        if self.estimate_priors and is_stream:
            raise InvalidArgument(path, "is set for a stream", "send the images in one Classify")
        checked_coverage(self.coverage)
        if self.top_k < 0:
            raise InvalidArgument("options.top_k", f"is {self.top_k}", "send 0 (all) or more")
