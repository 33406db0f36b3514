"""The figures that README quotes are those of the reports that lie beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.studies.recipe import PRESETS

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text("utf-8")
FAMILIES = {"resnet18": "resnet", "clip": "clip"}
SYNTHETIC, PHANTOMS = "real_plus_synthetic_200", "real_plus_phantoms_200"
TABLES = (
    # Whose report, arms, difference, arms beside it; how many tables have the row: what is from
    # scratch on Jiangxi stands at the top too.
    ("study-jiangxi-resnet", ("real_only", SYNTHETIC), "paired_difference", (), 2),
    (
        "study-jiangxi-resnet",
        ("transfer_real_only", f"transfer_{SYNTHETIC}"),
        "paired_difference_transfer",
        (),
        1,
    ),
    ("study-jiangxi-clip", ("real_only", SYNTHETIC), "paired_difference", (), 2),
    (
        "study-jiangxi-clip",
        ("transfer_real_only", f"transfer_{SYNTHETIC}"),
        "paired_difference_transfer",
        (),
        1,
    ),
    ("study-jiangxi-16", ("real_only", SYNTHETIC), "paired_difference", (), 1),
    (
        "study-jiangxi-16",
        ("transfer_real_only", f"transfer_{SYNTHETIC}"),
        "paired_difference_transfer",
        (),
        1,
    ),
    ("study-jiangxi-16-clip", ("real_only", SYNTHETIC), "paired_difference", (), 1),
    (
        "study-jiangxi-16-clip",
        ("transfer_real_only", f"transfer_{SYNTHETIC}"),
        "paired_difference_transfer",
        (),
        1,
    ),
    ("study", ("real_only", SYNTHETIC), "paired_difference", (PHANTOMS,), 1),
)


def report_of(study: str) -> Any:
    return json.loads((ROOT / "docs/evidence" / study / "report.json").read_text("utf-8"))


def macro_f1(figures: Any) -> str:
    low, high = figures["intervals"]["macro_f1"]
    return f"{figures['macro_f1']:.3f} [{low:.3f}, {high:.3f}]"


def difference(figures: Any) -> str:
    mean, low, high = (figures["macro_f1"][name] for name in ("mean", "low", "high"))
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


@pytest.mark.parametrize(("study", "arms", "key", "beside", "times"), TABLES)
def test_readme_has_the_rows(study: str, arms: Any, key: str, beside: Any, times: int) -> None:
    report = report_of(study)
    assert set(report["arms"]) == set(report["settings"]["models"]) <= set(FAMILIES)
    for model, of_arm in report["arms"].items():
        cells = [macro_f1(of_arm[arm]) for arm in arms]
        cells += [difference(report[key][FAMILIES[model]])]
        cells += [macro_f1(of_arm[arm]) for arm in beside]
        rows = [line.replace("**", "") for line in README.splitlines() if line.startswith("|")]
        row = f"| {' | '.join(cells)} |"
        assert sum(each.endswith(row) for each in rows) == times, row


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
def test_readme_names_the_settings(study: str, data: str) -> None:
    data_and_out = f"--data ../shared/data/{data} ", f"--out out/{study}\n"
    blocks = README.split("```")[1::2]
    (command,) = [block for block in blocks if all(each in block for each in data_and_out)]
    settings = report_of(study)["settings"]
    assert f"--preset {settings['preset']} " in command
    for class_id, shots in settings["class_shots"].items():
        assert f"{class_id}={shots}" in command
    of_preset = json.loads(json.dumps(PRESETS[settings["preset"]].to_dict()))
    asked = {"class_shots", "feature_space"}  # the second is filled in
    if settings["models"] != of_preset["models"]:
        assert f"--models {','.join(settings['models'])} " in command
        asked.add("models")
    if settings["sampler_preset"] != of_preset["sampler_preset"]:
        assert f"--sampler-preset {settings['sampler_preset']} " in command
        asked.add("sampler_preset")
    # The command asks for nothing else.
    assert settings == of_preset | {name: settings[name] for name in asked}
