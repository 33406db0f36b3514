"""The page on scaling: tables that match its figures, and right arithmetic."""

from __future__ import annotations

import copy
import json

import pytest

from benchmarks.scaling import tables as scaling_table
from benchmarks.scaling.cost import around
from benchmarks.scaling.run import line
from benchmarks.scaling.tables import PAGE, Part, classifier_parts, generator_parts, refreshed


def _figures() -> dict:
    return json.loads(around(PAGE.read_text(), "figures")[1].strip("\n`json"))


def test_the_page_holds_what_its_figures_say() -> None:
    page = PAGE.read_text()
    assert refreshed(page) == page
    assert refreshed(page, _figures()) == page
    other = copy.deepcopy(_figures())
    other["stream"]["seconds_per_megabyte"]["front"] *= 3
    assert refreshed(page, other) != page


def test_two_points_give_what_a_call_and_an_image_cost() -> None:
    assert line({1: 5.0, 16: 20.0}) == (pytest.approx(4.0), pytest.approx(1.0))
    assert line({1: 5.0, 16: 4.0}) == (5.0, 0.0)


def test_a_part_is_full_where_its_shares_add_up_to_one() -> None:
    part = Part("front", "1", used=0.02, fixed=0.2)
    assert part.share(10) == pytest.approx(0.4)
    assert part.full_at == pytest.approx(40)
    assert Part("proxy", "1 a node", 0.01, per_node=True).full_at == float("inf")
    assert Part("proxy", "1 a node", 0.01, per_node=True).share(1000) == pytest.approx(0.08)
    assert Part("proxy", "1 a node", 0.2, per_node=True).full_at == pytest.approx(5)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = _figures()
    figures["stream"]["seconds_per_image"]["front"] = 0.001
    figures["stream"]["seconds_per_megabyte"]["front"] = 0.0025
    monkeypatch.setattr(scaling_table, "assumed_images_per_second", lambda _: 50.0)
    front = next(one for one in generator_parts(figures) if one.name == "generator's front")
    # 45 images a second and GPU, each 1 ms and 0.4 MB of 2.5 ms
    assert front.share(1) == pytest.approx(45 * 0.002)
    figures["database"]["alias"]["cpu_seconds"] = 0.0004
    alias = next(one for one in classifier_parts(figures, 16) if one.name.startswith("database"))
    assert alias.share(1600) == pytest.approx(100 * 0.0004 / 8)
