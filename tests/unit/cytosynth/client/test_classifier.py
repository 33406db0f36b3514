"""Classification in batches and streams, models and aliases."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytosynth.client import (
    Client,
    CytosynthError,
)
from tests.support.servers.toy_services.server import ToyServices


def test_images_are_classified_in_batches(toy: ToyServices, client: Client) -> None:
    answers = client.classify([bytes([value]) for value in (255, 0, 51)], batch_size=2)
    assert [answer.class_id for answer in answers] == ["blast", "mono", "mono"]
    assert answers[2].probability == pytest.approx(0.8)
    assert list(answers[2].probabilities) == ["mono", "blast"]
    assert answers[0].model == "classifiers/c1"
    assert toy.classifier.batch_sizes == [2, 1]


def test_batches_stay_under_the_message_limit(toy: ToyServices, client: Client) -> None:
    large = bytes([255]) + bytes(15_000_000)
    assert len(client.classify([large] * 3)) == 3
    assert toy.classifier.batch_sizes == [2, 1]


def test_the_bad_image_is_named(client: Client, folder: Path) -> None:
    bad = folder / "mono/1.png"
    bad.write_bytes(b"not an image")
    paths = sorted(folder.rglob("*.png"))
    with pytest.raises(CytosynthError) as caught:
        client.classify(paths, batch_size=2)
    assert caught.value.message == f"{bad}: is not an image; send PNG or JPEG"
    assert caught.value.field_violations[0].field == str(bad)


def test_an_unknown_model_is_named(client: Client) -> None:
    with pytest.raises(CytosynthError, match="aliases/none does not exist"):
        client.classify([b"\x01"], model="aliases/none")


def test_a_stream_of_images_is_classified_in_order(client: Client) -> None:
    answers = client.classify_stream(bytes([value]) for value in (255, 0))
    assert [answer.class_id for answer in answers] == ["blast", "mono"]


def test_aliases_move_and_roll_back(client: Client) -> None:
    assert client.list_models()[0].aliases == ("aliases/production",)
    moved = client.set_alias("aliases/production", "classifiers/c2")
    assert (moved.model, moved.previous_model) == ("classifiers/c2", "classifiers/c1")
    assert client.rollback_alias("aliases/production").model == "classifiers/c1"
    assert [alias.name for alias in client.list_aliases()] == ["aliases/production"]


def test_each_image_has_its_answer_or_its_error(
    toy: ToyServices, client: Client, folder: Path
) -> None:
    paths = sorted(folder.rglob("*.png"))
    for bad in (0, 1):
        paths[bad].write_bytes(b"not an image")
    paths[4].unlink()
    answers = list(client.classify_each(paths, batch_size=3))
    errors = [(n, str(answer)) for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert [number for number, _ in errors] == [0, 1, 4]
    assert errors[0][1] == f"{paths[0]}: is not an image; send PNG or JPEG"
    assert errors[1][1] == f"{paths[1]}: is not an image; send PNG or JPEG"
    assert "cannot be read" in errors[2][1]
    assert toy.classifier.batch_sizes == [3, 1, 1], "one call names all that it refuses"


def test_a_removed_alias_is_gone(client: Client) -> None:
    client.delete_alias("aliases/production")
    assert client.list_aliases() == []
    with pytest.raises(CytosynthError, match="aliases/production does not exist"):
        client.delete_alias("aliases/production")
