"""The figures that README quotes are those of the report that lies beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.study_recipe import PRESETS

ROOT = Path(__file__).resolve().parents[2]
REPORT = json.loads((ROOT / "docs/evidence/study-jiangxi/report.json").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")
PAIRS = (
    # From scratch, in the table at the top and in that of the study; from other weights, there.
    ("real_only", "real_plus_synthetic_200", "paired_difference", 2),
    ("transfer_real_only", "transfer_real_plus_synthetic_200", "paired_difference_transfer", 1),
)


def macro_f1(figures: Any) -> str:
    low, high = figures["intervals"]["macro_f1"]
    return f"{figures['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"


def difference(figures: Any) -> str:
    mean, low, high = (figures["macro_f1"][name] for name in ("mean", "low", "high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


@pytest.mark.parametrize(("model", "family"), [("resnet18", "resnet"), ("clip", "clip")])
@pytest.mark.parametrize(("without", "with_synthetic", "key", "times"), PAIRS)
def test_readme_has_the_row(
    model: str, family: str, without: str, with_synthetic: str, key: str, times: int
) -> None:
    arms = REPORT["arms"][model]
    cells = [macro_f1(arms[without]), macro_f1(arms[with_synthetic])]
    cells += [difference(REPORT[key][family])]
    rows = [line.replace("**", "") for line in README.splitlines() if line.startswith("|")]
    row = f"| {' | '.join(cells)} |"
    assert sum(each.endswith(row) for each in rows) == times, row


def test_readme_names_the_settings() -> None:
    command = README[README.index("cytosynth study --data ../shared/data/wbc-jiangxi") :]
    command = command[: command.index("```")]
    settings = REPORT["settings"]
    assert f"--preset {settings['preset']}" in command
    for class_id, shots in settings["class_shots"].items():
        assert f"{class_id}={shots}" in command
    assert settings["num_draws"] == PRESETS[settings["preset"]].num_draws
    assert "--draws" not in command
