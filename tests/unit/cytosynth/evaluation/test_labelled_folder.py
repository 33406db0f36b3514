"""A running classifier is judged on a labelled folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cytosynth.client import AnswerOptions, Client, CytosynthError
from cytosynth.evaluation.labelled_folder import evaluate
from tests.support.servers.toy_services.server import ToyServices


@pytest.fixture
def client(toy: ToyServices) -> Iterator[Client]:
    with Client(toy.address) as client:
        yield client


@pytest.fixture
def non_cells(tmp_path: Path) -> Path:
    folder = tmp_path / "strange"
    folder.mkdir()
    for number, score in enumerate((90, 150, 200, 0)):
        (folder / f"{number}.png").write_bytes(bytes([255, score, 9]))
    return folder


def test_figures_of_a_folder(client: Client, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    judged = evaluate(client, folder, on_answer=lambda done, all: seen.append((done, all)))
    figures = judged.figures
    assert judged.refused == () and seen[-1] == (5, 5)
    assert figures["model"] == "classifiers/c1" and figures["manifest_digest"] == "d" * 64
    assert figures["calibrated"] and figures["coverage"] == 0.9
    assert figures["num_per_class"] == {"blast": 3, "mono": 2}
    assert figures["accuracy"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert figures["coverage_per_class"] == {"blast": 1.0, "mono": 1.0}
    assert "non_cell_auc" not in figures


def test_pictures_without_a_cell_are_told_apart(
    client: Client, folder: Path, non_cells: Path
) -> None:
    figures = evaluate(client, folder, non_cells=non_cells).figures
    # Every cell scores 0.01; of four other pictures, one scores lower.
    assert figures["non_cell_auc"] == 0.75
    assert figures["num_non_cells"] == 4
    assert figures["share_of_non_cells_needing_review"] == 0.5


def test_earlier_servers_are_judged_without_sets(
    toy: ToyServices, client: Client, folder: Path, non_cells: Path
) -> None:
    toy.classifier.is_of_earlier_release = True
    figures = evaluate(client, folder, non_cells=non_cells).figures
    assert not figures["calibrated"] and figures["coverage"] is None
    assert "coverage_per_class" not in figures and figures["non_cell_auc"] is None
    assert figures["accuracy"]["value"] == 1.0


def test_class_that_the_classifier_does_not_know_is_named(client: Client, folder: Path) -> None:
    (folder / "platelet").mkdir()
    (folder / "platelet/0.png").write_bytes(bytes([7, 1, 2]))
    with pytest.raises(CytosynthError, match="does not know the class platelet") as caught:
        evaluate(client, folder)
    assert "it knows blast, mono" in caught.value.remedy


def test_files_that_are_no_images_are_refused_before_any_call(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    (folder / "blast/0.png").write_bytes(b"not an image")
    with pytest.raises(CytosynthError, match=r"blast/0\.png"):
        evaluate(client, folder)
    assert toy.classifier.batch_sizes == []


def test_options_reach_the_classifier(toy: ToyServices, client: Client, folder: Path) -> None:
    options = AnswerOptions(class_priors={"blast": 0.5, "mono": 0.5}, coverage=0.75)
    figures = evaluate(client, folder, options=options).figures
    assert figures["coverage"] == 0.75 and figures["prior_source"] == "request"
