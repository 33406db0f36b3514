"""Number of replicas for a backlog, and the policies' use of reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from services.generator import autoscale
from services.generator.autoscale import AutoscaleSettings, SamplerPolicy, target_num_replicas

# One replica works off 10 x 100 = 1000 evaluations within the target.
SETTINGS = AutoscaleSettings(
    min_replicas=0,
    max_replicas=8,
    target_seconds=100.0,
    evaluations_per_second=10.0,
    downscale_delay_seconds=20.0,
)


@dataclass
class Context:
    """Serve's, as far as the policies read it."""

    app_name: str = "generator"
    target_num_replicas: int = 0
    current_time: float = 0.0
    raw_metrics: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


def reports(metric: str, *replicas: list[float]) -> dict[str, dict[str, list[Any]]]:
    """A metric as Serve keeps it: a series per replica."""
    series = {f"r{i}": [SimpleNamespace(value=v) for v in one] for i, one in enumerate(replicas)}
    return {metric: series}


@pytest.fixture(autouse=True)
def no_backlogs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscale, "_backlogs", {})


@pytest.mark.parametrize(
    ("backlog", "current", "expected"),
    [
        (0, 0, 0),
        (0, 5, 0),
        (1, 0, 1),
        (1000, 0, 1),
        (1001, 0, 2),
        (2500, 1, 3),
        (1e9, 0, 8),  # no more than max_replicas
    ],
)
def test_replicas_that_meet_the_target(backlog: float, current: int, expected: int) -> None:
    assert target_num_replicas(backlog, 10.0, current, SETTINGS) == expected


def test_never_fewer_than_the_least() -> None:
    settings = replace(SETTINGS, min_replicas=2)
    assert [target_num_replicas(b, 10.0, 2, settings) for b in (0, 1, 2500)] == [2, 2, 3]


def test_replicas_stay_while_they_have_work_for_longer_than_the_delay() -> None:
    # 5 replicas do 50 evaluations a second: 20 s of work are 1000.
    assert target_num_replicas(1001, 10.0, 5, SETTINGS) == 5
    assert target_num_replicas(1000, 10.0, 5, SETTINGS) == 1


def test_a_backlog_is_worked_off_without_flapping() -> None:
    backlog, current, seconds = 6000.0, 0, 0
    while (wanted := target_num_replicas(backlog, 10.0, current, SETTINGS)) >= current:
        assert wanted == 6
        current = wanted
        backlog -= 10.0 * current
        seconds += 1
    # None goes before there is so little left that all is done when Serve's delay is over.
    assert seconds + SETTINGS.downscale_delay_seconds == SETTINGS.target_seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_replicas", 9),
        ("min_replicas", -1),
        ("max_replicas", 0),
        ("warm_replicas", 9),
        ("warm_seconds", -1.0),
        ("evaluations_per_second", 0.0),
        ("downscale_delay_seconds", 100.0),
    ],
)
def test_settings_that_contradict_themselves_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name.rpartition("_")[2]):
        AutoscaleSettings(**{**asdict(SETTINGS), name: value})


def test_a_reader_that_has_stopped_keeps_no_replicas_running() -> None:
    now = 100.0
    owed = autoscale.RequestBacklog(10, 6, lambda: now)
    assert owed.evaluations == 60
    owed.hand_over()
    assert owed.evaluations == 54
    now += autoscale.STALLED_SECONDS + 1
    assert owed.evaluations == 0
    owed.taken()
    assert owed.evaluations == 54, "it reads again"
    now += 1000
    assert owed.evaluations == 54, "it waits for us, not we for it"


def test_the_backlogs_of_all_fronts_reach_the_samplers_of_their_application_only() -> None:
    backlogs = reports(autoscale.BACKLOG_METRIC, [9e9, 2000.0], [500.0], [])
    front = Context(target_num_replicas=3, raw_metrics=backlogs)
    assert autoscale.FrontPolicy()(front) == (3, {})
    samplers = SamplerPolicy(**asdict(SETTINGS))
    assert samplers(Context())[0] == 3
    assert samplers(Context(app_name="other", target_num_replicas=3))[0] == 0


def test_measured_throughput_replaces_the_assumed_and_is_remembered() -> None:
    samplers = SamplerPolicy(**asdict(SETTINGS))
    autoscale._backlogs["generator"] = 3000.0
    # One replica has sampled nothing yet, the others 4 and 6 evaluations a second at last.
    metrics = reports(autoscale.THROUGHPUT_METRIC, [0.0], [99.0, 4.0], [6.0])
    assert samplers(Context())[0] == 3
    assert samplers(Context(raw_metrics=metrics))[0] == 6
    assert samplers(Context())[0] == 6


def test_the_warm_pool_stays_for_its_time_after_the_last_work() -> None:
    settings = replace(SETTINGS, warm_replicas=2, warm_seconds=50.0)
    samplers = SamplerPolicy(**asdict(settings))
    assert samplers.decide(0.0, 0, now=0.0) == 0  # no request yet
    assert samplers.decide(10.0, 0, now=10.0) == 2
    assert samplers.decide(0.0, 2, now=59.0) == 2
    assert samplers.decide(0.0, 2, now=60.0) == 0


def test_serve_is_told_the_bounds_and_the_delay_and_plain_json() -> None:
    config = autoscale.sampler_autoscaling(SETTINGS)
    assert (config["min_replicas"], config["max_replicas"]) == (0, 8)
    assert config["downscale_delay_s"] == 20.0
    assert AutoscaleSettings(**config["policy"]["policy_kwargs"]) == SETTINGS
    front = autoscale.front_autoscaling(2)
    assert (front["min_replicas"], front["max_replicas"]) == (2, 2)
