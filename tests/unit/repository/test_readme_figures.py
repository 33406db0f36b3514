"""The figures of README and docs/results.md are those of the committed reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.studies.recipe import PRESETS

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text("utf-8")
RESULTS = (ROOT / "docs/results.md").read_text("utf-8")
FAMILIES = {"resnet18": "resnet", "clip": "clip"}
SYNTHETIC, PHANTOMS = "real_plus_synthetic_200", "real_plus_phantoms_200"
TRANSFER = ("transfer_real_only", f"transfer_{SYNTHETIC}"), "paired_difference_transfer"
SCRATCH = ("real_only", SYNTHETIC), "paired_difference"
TABLES = (
    # Whose report, arms and difference, arms beside it, whether README has the row too.
    ("study-jiangxi-resnet", *SCRATCH, (), True),
    ("study-jiangxi-resnet", *TRANSFER, (), True),
    ("study-jiangxi-clip", *SCRATCH, (), True),
    ("study-jiangxi-clip", *TRANSFER, (), True),
    ("study-jiangxi-16", *SCRATCH, (), False),
    ("study-jiangxi-16", *TRANSFER, (), False),
    ("study-jiangxi-16-clip", *SCRATCH, (), False),
    ("study-jiangxi-16-clip", *TRANSFER, (), False),
    ("study", *SCRATCH, (PHANTOMS,), True),
)


def report_of(study: str) -> Any:
    return json.loads((ROOT / "docs/evidence" / study / "report.json").read_text("utf-8"))


def macro_f1(figures: Any) -> str:
    low, high = figures["intervals"]["macro_f1"]
    return f"{figures['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"


def difference(figures: Any) -> str:
    mean, low, high = (figures["macro_f1"][name] for name in ("mean", "low", "high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def times_in(page: str, cells: list[str]) -> int:
    """How many rows of a page's tables end with these cells."""
    rows = [line.replace("**", "") for line in page.splitlines() if line.startswith("|")]
    return sum(row.endswith(f"| {' | '.join(cells)} |") for row in rows)


@pytest.mark.parametrize(("study", "arms", "key", "beside", "in_readme"), TABLES)
def test_the_tables_have_the_rows(
    study: str, arms: Any, key: str, beside: Any, in_readme: bool
) -> None:
    report = report_of(study)
    assert set(report["arms"]) == set(report["settings"]["models"]) <= set(FAMILIES)
    for model, of_arm in report["arms"].items():
        cells = [macro_f1(of_arm[arm]) for arm in arms]
        cells += [difference(report[key][FAMILIES[model]])]
        assert times_in(README, cells) == in_readme, cells
        cells += [macro_f1(of_arm[arm]) for arm in beside]
        assert times_in(RESULTS, cells) == 1, cells


@pytest.mark.parametrize(
    ("study", "data"),
    [
        ("study-jiangxi-resnet", "wbc-jiangxi"),
        ("study-jiangxi-clip", "wbc-jiangxi"),
        ("study-jiangxi-16", "wbc-jiangxi"),
        ("study-jiangxi-16-clip", "wbc-jiangxi"),
        ("study", "wbc-pbc-barcelona"),
    ],
)
def test_results_name_the_settings(study: str, data: str) -> None:
    data_and_out = f"--data ../shared/data/{data} ", f"--out out/{study}\n"
    blocks = RESULTS.split("```")[1::2]
    (command,) = [block for block in blocks if all(each in block for each in data_and_out)]
    settings = report_of(study)["settings"]
    assert f"--preset {settings['preset']} " in command
    for class_id, shots in settings["class_shots"].items():
        assert f"{class_id}={shots}" in command
    of_preset = json.loads(json.dumps(PRESETS[settings["preset"]].to_dict()))
    asked = {"class_shots", "feature_space"}  # the second is filled in
    if settings["models"] != of_preset["models"]:
        assert f"--architectures {','.join(settings['models'])} " in command
        asked.add("models")
    if settings["sampler_preset"] != of_preset["sampler_preset"]:
        assert f"--sampler-preset {settings['sampler_preset']} " in command
        asked.add("sampler_preset")
    # The command asks for nothing else.
    assert settings == of_preset | {name: settings[name] for name in asked}
