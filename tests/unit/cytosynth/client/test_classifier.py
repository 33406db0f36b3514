"""Classification in batches and streams, models and aliases."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cytosynth.client import (
    AnswerContext,
    AnswerOptions,
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


@pytest.mark.parametrize("is_of_earlier_release", [False, True])
def test_each_image_has_its_answer_or_its_error(
    is_of_earlier_release: bool,
    toy: ToyServices,
    client: Client,
    folder: Path,
) -> None:
    toy.classifier.is_of_earlier_release = is_of_earlier_release
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
    if is_of_earlier_release:
        assert toy.classifier.batch_sizes == [3, 1, 1], "one call names all that it refuses"
    else:
        assert toy.classifier.batch_sizes == [3, 1], "no call is repeated"


def test_a_removed_alias_is_gone(client: Client) -> None:
    client.delete_alias("aliases/production")
    assert client.list_aliases() == []
    with pytest.raises(CytosynthError, match="aliases/production does not exist"):
        client.delete_alias("aliases/production")


def test_answers_carry_their_doubt(toy: ToyServices, client: Client) -> None:
    options = AnswerOptions(class_priors={"blast": 0.25, "mono": 0.75}, coverage=0.8, top_k=1)
    sure, odd = client.classify([bytes([255]), bytes([150, 130])], options=options)
    assert sure.prediction_set == ("blast",) and odd.prediction_set == ("blast", "mono")
    assert (sure.out_of_distribution_score, odd.out_of_distribution_score) == (0.5, 1.3)
    assert not sure.needs_review and odd.needs_review
    assert odd.review_reasons == ("unknown_class", "near_boundary")
    assert sure.image_sha256 == hashlib.sha256(bytes([255])).hexdigest()
    assert sure.context == AnswerContext(
        manifest_digest="d" * 64,
        request_id="request-1",
        calibrated=True,
        conformal=True,
        coverage=0.8,
        prior_source="request",
        class_priors={"blast": 0.25, "mono": 0.75},
        runtime="torch",
    )
    assert toy.classifier.options[0].top_k == 1 and not toy.classifier.options[0].answer_each


def test_answers_of_an_earlier_server_have_no_doubt(toy: ToyServices, client: Client) -> None:
    toy.classifier.is_of_earlier_release = True
    (answer,) = client.classify([bytes([255])])
    assert answer.prediction_set == () and answer.out_of_distribution_score is None
    assert answer.context == AnswerContext() and not answer.needs_review


def test_context_of_a_stream_holds_for_all_its_answers(client: Client) -> None:
    images = [bytes([255]), bytes([0, 200])]
    first, second = client.classify_stream(iter(images), options=AnswerOptions(coverage=0.7))
    assert first.context.coverage == second.context.coverage == 0.7
    assert second.review_reasons == ("unknown_class",)


def test_bad_priors_name_their_field(client: Client) -> None:
    with pytest.raises(CytosynthError, match="no class 'blasts'") as caught:
        client.classify([b"\x01"], options=AnswerOptions(class_priors={"blasts": 1.0}))
    assert caught.value.field_violations[0].field == "options.class_priors"


def test_lists_are_read_to_their_last_page(toy: ToyServices, client: Client) -> None:
    toy.classifier.num_older_models = 2500
    names = [model.name for model in client.list_models()]
    assert len(names) == len(set(names)) == 2501


def test_few_images_a_call_are_drawn(toy: ToyServices, client: Client) -> None:
    client.classify([b"\xc8"] * 20, options=AnswerOptions(saliency=True))
    assert toy.classifier.batch_sizes == [16, 4]
    assert toy.classifier.options[-1].saliency
