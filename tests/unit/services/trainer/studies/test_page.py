"""A study's report in a real browser, on desk and phone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from cytosynth.review.study_section import add_to_study
from services.common.store.artifacts import ArtifactStore
from services.trainer.classifiers import training as train_classifier
from services.trainer.studies import job as study
from tests.support import fakes
from tests.support.browser import DESKTOP_PX, PHONE_PX, open_page, overflow_px
from tests.support.few_shot import (
    CLASSES,
    TENANT,
    FakeGenerator,
    job_context,
    serve_images,
    tiny_settings,
)
from tests.support.studies import begin

if TYPE_CHECKING:
    from playwright.sync_api import Browser

A4_PX = 794  # 210 mm at 96 pixels an inch
HEADINGS = (
    "Goals",
    "Macro-F1 against synthetic images per class",
    "Starting from weights trained on other cells",
    "All arms",
    "What each class gains",
    "Confusion matrices",
    "Image quality",
    "Privacy",
    "The nearest pairs",
    "Protocol",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of files of a small study with all arms."""
    root = tmp_path_factory.mktemp("study")
    settings = tiny_settings(root)
    fakes.write_tiny_resnet(settings.models_dir)
    store = ArtifactStore(settings.store_uri)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.setattr(train_classifier, "_BATCHNORM_BATCHES", 1)
        serve_images(patch, FakeGenerator())
        bases = {"transfer_resnet_base": "tiny-resnet", "transfer_clip_base": "tiny-clip"}
        report = study.run(begin(store, settings, **bases), job_context(store, settings))
    torch.set_num_threads(before)
    out = root / "out"
    out.mkdir()
    for name in ("report.html", "report.json"):
        (out / name).write_bytes(store.read(TENANT, "reports", report, name))
    return out


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_fits_the_window_and_shows_everything(
    browser: Browser, folder: Path, width: int, dark: bool
) -> None:
    with open_page(browser, folder / "report.html", width, dark=dark) as page:
        for heading in HEADINGS:
            assert page.get_by_role("heading", name=heading, exact=True).is_visible(), heading
        assert overflow_px(page) == 0
        pictures = page.locator("img")
        assert pictures.count() >= 12
        for number in range(pictures.count()):
            assert pictures.nth(number).evaluate("(image) => image.naturalWidth") > 0
        for chart in page.locator("svg").all():
            box = chart.bounding_box()
            assert box is not None and box["width"] > 200 and box["height"] > 60
        report = json.loads((folder / "report.json").read_text())
        figure = report["arms"]["clip"]["real_only"]["macro_f1"]
        shown = re.compile(rf"^{100 * figure:.1f}\b")
        assert page.get_by_role("cell", name=shown).first.is_visible()
        for class_id in CLASSES:
            assert page.get_by_role("cell", name=class_id, exact=True).first.is_visible()


def test_on_paper_no_table_is_cut_off(browser: Browser, folder: Path) -> None:
    with open_page(browser, folder / "report.html", A4_PX) as page:
        page.emulate_media(media="print")
        assert overflow_px(page) == 0
        for table in page.locator("table").all():
            box = table.bounding_box()
            assert box is not None and box["x"] + box["width"] <= A4_PX
        assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")


def test_a_review_finds_its_place_in_the_report(browser: Browser, folder: Path) -> None:
    add_to_study(folder, {"num_reviewers": 2}, "<h2>Two haematologists</h2>")
    with open_page(browser, folder / "report.html") as page:
        headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings.index("Privacy") < headings.index("Two haematologists")
    assert headings[-2:] == ["Two haematologists", "Protocol"]
    assert json.loads((folder / "report.json").read_text())["review"] == {"num_reviewers": 2}
