"""Names of series, and expressions, that several dashboards share."""

from __future__ import annotations

CALLS = "cytosynth_calls_total"
CALL_SECONDS = "cytosynth_call_seconds_bucket"
PREDICTIONS = "cytosynth_classifier_predictions_total"
IN_PROGRESS = "cytosynth_calls_in_progress"
CLASSIFIER = "cytosynth_classifier_"
GENERATOR = "ray_cytosynth_generator_"
"""Of the samplers, which Ray exports."""


def quantiles(bucket: str, selector: str = "") -> dict[str, str]:
    """Median and 95th percentile of a histogram."""
    return {
        f"p{percent}": f"histogram_quantile(0.{percent}, "
        f"sum by (le) (rate({bucket}{selector}[5m])))"
        for percent in (50, 95)
    }
