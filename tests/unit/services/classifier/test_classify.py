"""Classification of a call: decoding, refused images, notices, digests, options."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from services.classifier.batching.engine import BatchEngine
from services.classifier.batching.schedule import Limits
from services.classifier.classify import Classified, Classifying, Picture, Wanted, check_count
from services.classifier.config import ClassifierSettings
from services.classifier.loaded_model import LoadedModel, ModelLoader
from services.classifier.metrics import ServingMetrics
from services.classifier.saliency.drawing import Drawing
from services.common.answers.options import AnswerOptions
from services.common.answers.priors import PriorSource
from services.common.errors import MAX_LISTED, InvalidArgument
from services.common.images.codec import ImageLimits, encode_image
from services.common.rpc.statuses import to_status
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import CLASSES, TENANT, cell_image, store_random_classifier
from tests.support.image_files.icc_profiles import srgb_profile
from tests.support.image_files.tiff_files import tiff_file


class Figures(ServingMetrics):
    """Remembers predicted classes."""

    def __init__(self) -> None:
        self.predicted: list[tuple[str, str, list[str]]] = []

    def classified(self, tenant: str, architecture: str, predicted: Sequence[str]) -> None:
        self.predicted.append((tenant, architecture, list(predicted)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    store = ArtifactStore(f"file://{tmp_path_factory.mktemp('store')}")
    store_random_classifier(store, "model-1", seed=1)
    return ModelLoader(store, ClassifierSettings(classifier_device="cpu")).load(TENANT, "model-1")


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def classifying(figures: Figures) -> Iterator[Classifying]:
    engine = BatchEngine(Limits(max_wait=60), figures)
    yield Classifying(engine, ImageLimits(), Drawing(), figures)
    engine.close()


def png(seed: int = 0) -> bytes:
    return encode_image(cell_image(CLASSES[seed % 3], seed))


def encoded(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def ask(
    classifying: Classifying, model: LoadedModel, images: list[bytes], **wanted: Any
) -> Classified:
    return asyncio.run(classifying.classify(model, None, images, Wanted(**wanted)))


def prepared(data: bytes, model: LoadedModel) -> np.ndarray:
    return Picture(data, "image").prepare(model, ImageLimits())


def test_probabilities_are_ranked_and_sum_to_one(
    classifying: Classifying, model: LoadedModel, figures: Figures
) -> None:
    outcomes = ask(classifying, model, [png(n) for n in range(5)]).outcomes
    answers = [each.answer for each in outcomes if each.answer is not None]
    assert len(answers) == 5
    for answer in answers:
        values = [probability for _, probability in answer.probabilities]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1.0)
        assert answer.class_id == answer.probabilities[0][0]
        assert {class_id for class_id, _ in answer.probabilities} == set(CLASSES)
    assert figures.predicted == [(TENANT, "resnet18", [answer.class_id for answer in answers])]


@pytest.mark.parametrize("count", [0, 257, 10**6])
def test_empty_and_huge_batches_are_refused(count: int) -> None:
    with pytest.raises(InvalidArgument, match="send 1 to 256"):
        check_count(count, 256)


def test_all_unreadable_images_of_a_call_are_named(
    classifying: Classifying, model: LoadedModel
) -> None:
    images = [png(), b"", png(), b"no image", *[b""] * 20]
    with pytest.raises(InvalidArgument) as caught:
        ask(classifying, model, images)
    error = caught.value
    assert error.field == "images[1]" and error.problem == "is empty"
    named = [error.field, *(field for field, _ in error.further)]
    assert named[:4] == ["images[1]", "images[3]", "images[4]", "images[5]"]
    assert len(named) == MAX_LISTED and error.num_more == 22 - MAX_LISTED
    status = to_status(error)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == named
    assert len(status.SerializeToString()) < 6000  # as base64 and with the message below 8 KiB


def test_each_image_is_answered_if_asked(
    classifying: Classifying, model: LoadedModel, figures: Figures
) -> None:
    images = [png(0), b"no image", png(1), b""]
    outcomes = ask(classifying, model, images, answer_each=True).outcomes
    assert [each.answer is not None for each in outcomes] == [True, False, True, False]
    errors = [each.error for each in outcomes if each.error is not None]
    assert [error.field for error in errors] == ["images[1]", "images[3]"]
    assert errors[0].remedy and errors[1].problem == "is empty"
    assert [each.digest for each in outcomes] == [
        hashlib.sha256(data).hexdigest() for data in images
    ]
    assert len(figures.predicted[0][2]) == 2
    whole = ask(classifying, model, [png(0)]).outcomes[0].answer
    assert outcomes[0].answer is not None and whole is not None
    expected = dict(whole.probabilities)
    assert dict(outcomes[0].answer.probabilities) == pytest.approx(expected, abs=1e-5)


def test_a_batch_of_bad_images_alone_is_answered_if_asked(
    classifying: Classifying, model: LoadedModel
) -> None:
    classified = ask(classifying, model, [b"", b"%PDF"], answer_each=True)
    assert [each.error is not None for each in classified.outcomes] == [True, True]
    assert classified.answers.prior_source is PriorSource.TRAINING


def test_what_was_ignored_is_told_with_the_image(
    classifying: Classifying, model: LoadedModel
) -> None:
    cell = cell_image("lymphocyte", 3)
    hidden = encoded(np.dstack([cell, np.zeros(cell.shape[:2], np.uint8)]))
    damaged = encoded(cell, icc_profile=b"nonsense" * 20)
    outcomes = ask(classifying, model, [png(), hidden, damaged]).outcomes
    assert outcomes[0].notices == ()
    assert outcomes[1].notices == ("its alpha channel hides the whole image and is ignored",)
    assert "ICC profile" in outcomes[2].notices[0]


def test_priors_and_top_k_are_applied(classifying: Classifying, model: LoadedModel) -> None:
    options = AnswerOptions(class_priors={"monocyte": 0.98, "eosinophil": 0.02}, top_k=1)
    classified = ask(classifying, model, [png()], options=options)
    answer = classified.outcomes[0].answer
    assert answer is not None
    assert answer.class_id == "monocyte" and len(answer.probabilities) == 1
    assert classified.answers.prior_source is PriorSource.REQUEST
    assert classified.answers.class_priors["lymphocyte"] == 0


def test_saliency_is_drawn_for_what_can_be_read(
    classifying: Classifying, model: LoadedModel
) -> None:
    images = [png(0), b"", png(1)]
    outcomes = ask(classifying, model, images, saliency=True, answer_each=True).outcomes
    assert [each.saliency_png[:4] for each in outcomes] == [b"\x89PNG", b"", b"\x89PNG"]


def test_a_network_that_fails_fails_the_call(classifying: Classifying, model: LoadedModel) -> None:
    class Broken:
        name = "broken"

        def run(self, images_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise MemoryError("no memory")

    import dataclasses

    broken = dataclasses.replace(model, runtime=Broken())
    with pytest.raises(MemoryError):
        ask(classifying, broken, [png()], answer_each=True)


def test_alpha_depth_planes_and_profile_leave_the_image_as_it_is(model: LoadedModel) -> None:
    cell = cell_image("lymphocyte", 3)
    deep = cell.astype(np.uint16) * 257
    files = {
        "hidden": encoded(np.dstack([cell, np.zeros(cell.shape[:2], np.uint8)])),
        "planar": tiff_file(deep, photometric=2, separate=True),
        "sRGB": encoded(cell, icc_profile=srgb_profile()),
    }
    expected = prepared(encode_image(cell), model)
    for data in files.values():
        np.testing.assert_array_equal(prepared(data, model), expected)


def test_a_stated_scale_leaves_the_answer_as_it_is(
    classifying: Classifying, model: LoadedModel
) -> None:
    grey = np.repeat(cell_image("lymphocyte", 3)[..., 1:2], 3, 2)
    stated = tiff_file(
        (grey[..., 0].astype(np.uint32) * 4095 // 255).astype(np.uint16),
        photometric=1,
        tags={281: (3, [4095])},
    )
    outcomes = ask(classifying, model, [encode_image(grey), stated]).outcomes
    first, second = (dict(each.answer.probabilities) for each in outcomes if each.answer)
    assert first == pytest.approx(second, abs=0.01)
