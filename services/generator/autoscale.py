"""Number of sampler replicas: the backlog of UNet evaluations over measured throughput.

Serve's controller asks two policies, one per deployment. The front's passes on the backlog that
the fronts report; the samplers' turns it into a number of replicas. Nothing here knows Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

BACKLOG_METRIC = "backlog_evaluations"
"""UNet evaluations of all images that one front still owes to readers."""
STALLED_SECONDS = 15.0
"""Time after which a reader that takes nothing counts as stopped."""
THROUGHPUT_METRIC = "evaluations_per_second"
"""UNet evaluations of a sampler replica in a second; 0 until measured."""
REPORT_SECONDS = 2.0
"""Interval of reports; Serve's 10 s would slow a cold start."""
LOOK_BACK_SECONDS = 10.0
"""Time for which Serve keeps reports; must be above ``REPORT_SECONDS``."""

_backlogs: dict[str, float] = {}  # of each application, UNet evaluations


@dataclass
class RequestBacklog:
    """Images that a front owes to the reader of one request.

    Attributes:
        num_images: Not handed over yet.
        evaluations_per_image: UNet evaluations.
        clock: Gives seconds.
    """

    num_images: int
    evaluations_per_image: int
    clock: Callable[[], float] = time.monotonic
    _handing_since: float | None = field(default=None, init=False)

    def hand_over(self) -> None:
        """Count an image that is offered to the reader."""
        self.num_images -= 1
        self._handing_since = self.clock()

    def taken(self) -> None:
        """Note that the reader has taken it and wants the next."""
        self._handing_since = None

    @property
    def evaluations(self) -> int:
        """UNet evaluations to come; none while the reader has stopped."""
        since = self._handing_since
        if since is not None and self.clock() - since > STALLED_SECONDS:
            return 0
        return self.num_images * self.evaluations_per_image


@dataclass(frozen=True)
class AutoscaleSettings:
    """Settings of the autoscaling.

    Attributes:
        min_replicas: Never fewer; 0 scales to zero.
        max_replicas: Never more.
        warm_replicas: Kept for ``warm_seconds`` after the last backlog, above ``min_replicas``.
        warm_seconds: Time for which the warm pool stays when there is nothing to do.
        target_seconds: Time in which the backlog is to be worked off, start-up not counted.
        evaluations_per_second: Throughput of one replica, assumed until one is measured.
        downscale_delay_seconds: Time for which fewer replicas must be enough before any stops.

    Raises:
        ValueError: If a value is out of its range or two contradict each other.
    """

    min_replicas: int = 0
    max_replicas: int = 1
    warm_replicas: int = 0
    warm_seconds: float = 900.0
    target_seconds: float = 600.0
    evaluations_per_second: float = 100.0
    downscale_delay_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (0 <= self.min_replicas <= self.max_replicas and self.max_replicas >= 1):
            raise ValueError("replicas must obey 0 <= min <= max and max >= 1")
        if not 0 <= self.warm_replicas <= self.max_replicas:
            raise ValueError("warm_replicas must be 0 to max_replicas")
        if self.evaluations_per_second <= 0 or self.warm_seconds < 0:
            raise ValueError("evaluations_per_second must be above 0, warm_seconds not below")
        if not 0 <= self.downscale_delay_seconds < self.target_seconds:
            raise ValueError("downscale_delay_seconds must be from 0 to below target_seconds")


def target_num_replicas(
    backlog_evaluations: float,
    evaluations_per_second: float,
    current: int,
    settings: AutoscaleSettings,
) -> int:
    """Replicas that work the backlog off within the target time.

    While the backlog is worked off, fewer and fewer replicas would do. But letting replicas go
    would never meet the target and save nothing, as the work costs the same GPU-seconds on fewer
    replicas. So ``current`` replicas stay as long as they have work for longer than the downscale
    delay.

    Args:
        backlog_evaluations: UNet evaluations still to be done.
        evaluations_per_second: Throughput of one replica; above 0.
        current: Replicas asked for last, whether they run yet or not.
        settings: Bounds and times.
    """
    if backlog_evaluations <= 0:
        return settings.min_replicas
    needed = math.ceil(backlog_evaluations / (evaluations_per_second * settings.target_seconds))
    seconds_left = backlog_evaluations / (evaluations_per_second * max(1, current))
    if seconds_left > settings.downscale_delay_seconds:
        needed = max(needed, current)
    return min(max(needed, settings.min_replicas, 1), settings.max_replicas)


class Sample(Protocol):
    """One reported value; Serve's ``TimeStampedValue``."""

    value: float


class Context(Protocol):
    """The part of Serve's ``AutoscalingContext`` that policies read."""

    app_name: str
    target_num_replicas: int
    current_time: float

    @property
    def raw_metrics(self) -> Mapping[str, Mapping[Any, Sequence[Sample]]]:
        """Reports of each metric and running replica, oldest first."""


Decision = tuple[int, dict[str, Any]]
"""Number of replicas, and the policy's state, which ours leave empty."""


class FrontPolicy:
    """Keeps the number of fronts; passes the backlog to ``SamplerPolicy``."""

    def __call__(self, context: Context) -> Decision:
        _shared_backlogs()[context.app_name] = sum(_latest(context, BACKLOG_METRIC))
        return context.target_num_replicas, {}


class SamplerPolicy:
    """Follows the backlog that the front of the same application reports."""

    def __init__(self, **settings: Any) -> None:
        """Take the fields of ``AutoscaleSettings``: Serve hands policies plain JSON."""
        self._settings = AutoscaleSettings(**settings)
        self._throughput = self._settings.evaluations_per_second
        self._last_busy = -math.inf

    def __call__(self, context: Context) -> Decision:
        backlog = _shared_backlogs().get(context.app_name, 0.0)
        measured = [value for value in _latest(context, THROUGHPUT_METRIC) if value > 0]
        if measured:  # remembered, for when no replica is left to report
            self._throughput = sum(measured) / len(measured)
        wanted = self.decide(backlog, context.target_num_replicas, context.current_time)
        return wanted, {}

    def decide(self, backlog_evaluations: float, current: int, now: float) -> int:
        """Number of replicas at the last throughput known; ``now`` in seconds."""
        settings = self._settings
        if backlog_evaluations > 0:
            self._last_busy = now
        wanted = target_num_replicas(backlog_evaluations, self._throughput, current, settings)
        is_warm = now - self._last_busy < settings.warm_seconds
        return max(wanted, settings.warm_replicas) if is_warm else wanted


def front_autoscaling(num_replicas: int = 1) -> dict[str, Any]:
    """``autoscaling_config`` of the front: a fixed number.

    Without it Serve would not ask for metrics.
    """
    return {
        "min_replicas": num_replicas,
        "max_replicas": num_replicas,
        "metrics_interval_s": REPORT_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
        "policy": {"policy_function": f"{__name__}:FrontPolicy"},
    }


def sampler_autoscaling(settings: AutoscaleSettings) -> dict[str, Any]:
    """``autoscaling_config`` of the samplers; bounds and delays are kept by Serve itself."""
    return {
        "min_replicas": settings.min_replicas,
        "max_replicas": settings.max_replicas,
        "metrics_interval_s": REPORT_SECONDS,
        "look_back_period_s": LOOK_BACK_SECONDS,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": settings.downscale_delay_seconds,
        "policy": {
            "policy_function": f"{__name__}:SamplerPolicy",
            "policy_kwargs": asdict(settings),
        },
    }


def _latest(context: Context, metric: str) -> list[float]:
    """Last value of each replica; Serve's mean would lag by its window."""
    reports = context.raw_metrics.get(metric, {}).values()
    return [samples[-1].value for samples in reports if samples]


def _shared_backlogs() -> dict[str, float]:
    """The one board in the controller's process.

    Serve pickles a policy's module by value, so that each policy has globals of its own there;
    the module as imported is what two policies have in common. An application-level policy
    would see both deployments, but Serve takes one from a deployed file only, not from
    ``serve.run`` (Ray 2.60, ``ApplicationState.deploy_app``).
    """
    from services.generator import autoscale

    return autoscale._backlogs
