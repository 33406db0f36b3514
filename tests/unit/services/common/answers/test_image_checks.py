"""Pictures that are no sharp, well exposed cells are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from services.common.answers.image_checks import ImageChecks, fit_image_checks
from tests.support.few_shot import CLASSES, cell_image


def cells(first: int, per_class: int) -> np.ndarray:
    return np.stack([cell_image(c, first + n, 64) for c in CLASSES for n in range(per_class)])


@pytest.fixture(scope="module")
def checks() -> ImageChecks:
    return fit_image_checks(cells(0, 40))


def test_fresh_cells_pass(checks: ImageChecks) -> None:
    fresh = cells(500, 30)
    assert checks.blurred(fresh).mean() <= 0.03
    assert checks.badly_exposed(fresh).mean() <= 0.03
    assert (checks.strangeness(fresh) > 1).mean() <= 0.05


def test_blurred_cells_are_noticed(checks: ImageChecks) -> None:
    fresh = cells(500, 10)
    soft = ndimage.gaussian_filter(fresh, (0, 2, 2, 0))
    assert checks.blurred(soft).all()


@pytest.mark.parametrize("exposed", [lambda x: x * 1.8, lambda x: x * 0.3])
def test_bad_exposure_is_noticed(checks: ImageChecks, exposed: object) -> None:
    changed = exposed(cells(500, 10).astype(float)).clip(0, 255).astype(np.uint8)  # type: ignore[operator]
    assert checks.badly_exposed(changed).all()


def test_what_is_no_cell_looks_strange(checks: ImageChecks) -> None:
    rng = np.random.default_rng(0)
    blank = np.full((1, 64, 64, 3), 230, np.uint8)
    noise = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    dark = np.zeros((1, 64, 64, 3), np.uint8)
    assert (checks.strangeness(np.concatenate([blank, noise, dark])) > 1.5).all()
