"""What answers hold beside probabilities, statuses of single images, pages, overload."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from cytosynth.classifier.v1 import classifier_pb2 as pb
from cytosynth.classifier.v1 import classifier_pb2_grpc
from services.common.database.jobs import migrate
from services.common.images.codec import encode_image
from services.common.store.artifacts import ArtifactStore
from tests.support.few_shot import CLASSES, TENANT, cell_image, store_random_classifier
from tests.support.servers.local_serve import local_serve

METADATA = [("x-cytosynth-tenant", TENANT), ("x-request-id", "request-7")]
MODEL = "classifiers/model-1"
SECONDS = 120

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("classifier")
    url = f"sqlite:///{root}/jobs.db"
    migrate(url)
    store = ArtifactStore(f"file://{root}/store")
    for number in (1, 2, 3):
        store_random_classifier(store, f"model-{number}", seed=number)
    os.environ.pop("RAY_SERVE_ENABLE_HA_PROXY", None)
    # Imported late: Ray reads its environment when it is imported.
    from services.classifier.app import APP_NAME, build_app
    from services.classifier.config import ClassifierSettings

    settings = ClassifierSettings(
        store_uri=f"file://{root}/store", database_url=url, models_dir=root / "models"
    )
    with local_serve(build_app(settings), APP_NAME) as address:
        with grpc.insecure_channel(address) as channel:
            yield classifier_pb2_grpc.ClassifierServiceStub(channel)


def png(seed: int = 0) -> bytes:
    return encode_image(cell_image(CLASSES[seed % 3], seed))


def call(stub: Any, method: str, request: Any) -> Any:
    return getattr(stub, method)(request, timeout=SECONDS, metadata=METADATA)


def ask(stub: Any, images: list[bytes], **options: Any) -> Any:
    request = pb.ClassifyRequest(model=MODEL, images=images, options=pb.AnswerOptions(**options))
    return call(stub, "Classify", request)


def stream(stub: Any, images: list[bytes], **options: Any) -> list[Any]:
    requests = [pb.ClassifyStreamRequest(image=data) for data in images]
    requests[0].model = MODEL
    requests[0].options.CopyFrom(pb.AnswerOptions(**options))
    return list(stub.ClassifyStream(iter(requests), timeout=SECONDS, metadata=METADATA))


def told(status: status_pb2.Status) -> tuple[list[str], str]:
    """Fields and remedy of a status."""
    fields, remedy = [], ""
    for detail in status.details:
        bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
        if detail.Unpack(info):
            remedy = info.metadata["remedy"]
    return fields, remedy


def test_an_answer_says_what_it_is_of_and_how_it_was_found(stub: Any) -> None:
    response = ask(stub, [png(0), png(1)])
    model = call(stub, "GetModel", pb.GetModelRequest(name=MODEL)).model
    context = response.context
    assert context.manifest_digest == model.manifest_digest
    assert context.request_id == "request-7" and context.runtime
    assert context.prior_source == pb.PRIOR_SOURCE_TRAINING
    assert dict(context.class_priors) == pytest.approx(dict.fromkeys(CLASSES, 1 / 3))
    digests = [each.image_sha256 for each in response.classifications]
    assert digests == [hashlib.sha256(png(n)).hexdigest() for n in (0, 1)]


def test_a_classifier_of_an_earlier_release_answers_as_before_and_says_so(stub: Any) -> None:
    response = ask(stub, [png()], coverage=0.8)
    assert not response.context.calibrated and not response.context.conformal
    answer = response.classifications[0]
    assert len(answer.probabilities) == len(CLASSES) and not answer.prediction_set
    assert not answer.HasField("out_of_distribution_score")
    support = call(stub, "GetModel", pb.GetModelRequest(name=MODEL)).model.answers
    assert not (support.calibrated or support.conformal or support.out_of_distribution)


def test_a_bad_image_is_answered_with_a_status_of_its_own(stub: Any) -> None:
    images = [png(0), b"%PDF-1.7", png(1), b""]
    answers = ask(stub, images, answer_each=True).classifications
    assert [answer.HasField("status") for answer in answers] == [False, True, False, True]
    assert answers[0].class_id and not answers[1].class_id
    status = answers[1].status
    assert status.code == code_pb2.INVALID_ARGUMENT and "images[1]" in status.message
    fields, remedy = told(status)
    assert fields == ["images[1]"] and remedy in status.message
    alone = ask(stub, [png(1)]).classifications[0]
    assert [each.class_id for each in alone.probabilities] == [
        each.class_id for each in answers[2].probabilities
    ]


def test_a_batch_of_bad_images_alone_is_answered(stub: Any) -> None:
    answers = ask(stub, [b"", b"%PDF"], answer_each=True).classifications
    assert [answer.status.code for answer in answers] == [code_pb2.INVALID_ARGUMENT] * 2


def test_a_stream_goes_on_after_a_bad_image_if_asked(stub: Any) -> None:
    images = [png(n) for n in range(40)]
    images[5] = b"%PDF"
    answers = stream(stub, images, answer_each=True)
    bad = [n for n, each in enumerate(answers) if each.classification.HasField("status")]
    assert len(answers) == 40 and bad == [5]
    assert told(answers[5].classification.status)[0] == ["image (message 5)"]
    assert answers[0].context.request_id == "request-7"
    assert not any(each.HasField("context") for each in answers[1:])


def test_what_was_ignored_in_an_image_is_told(stub: Any) -> None:
    cell = cell_image("monocyte", 1)
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([cell, np.zeros(cell.shape[:2], np.uint8)])).save(buffer, "PNG")
    answers = ask(stub, [png(), buffer.getvalue()]).classifications
    assert not answers[0].notices and "alpha channel" in answers[1].notices[0]


def test_priors_of_the_laboratory_are_used_and_named(stub: Any) -> None:
    response = ask(stub, [png()], class_priors={"monocyte": 0.99, "eosinophil": 0.01}, top_k=2)
    assert response.context.prior_source == pb.PRIOR_SOURCE_REQUEST
    answer = response.classifications[0]
    assert answer.class_id == "monocyte" and len(answer.probabilities) == 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"class_priors": {"monocyte": 0.5}}, "options.class_priors"),
        ({"class_priors": {"monocyte": 1.5, "eosinophil": -0.5}}, "options.class_priors"),
        ({"class_priors": {"unicorn": 1.0}}, "options.class_priors"),
        ({"coverage": 0.0}, "options.coverage"),
        ({"coverage": 1.0}, "options.coverage"),
        ({"top_k": -1}, "options.top_k"),
        ({"estimate_priors": True, "class_priors": {"monocyte": 1.0}}, "options.estimate_priors"),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    stub: Any, options: dict[str, Any], field: str
) -> None:
    for send in (lambda: ask(stub, [png()], **options), lambda: stream(stub, [png()], **options)):
        with pytest.raises(grpc.RpcError) as caught:
            send()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        fields, remedy = told(rpc_status.from_call(caught.value))
        assert fields[0].startswith(field) and remedy


def test_priors_are_not_estimated_in_a_stream(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stream(stub, [png()], estimate_priors=True)
    assert told(rpc_status.from_call(caught.value))[0] == ["options.estimate_priors"]


def test_lists_come_in_pages(stub: Any) -> None:
    names, token = [], ""
    for _ in range(2):
        listed = call(stub, "ListModels", pb.ListModelsRequest(page_size=2, page_token=token))
        names.append([model.name for model in listed.models])
        token = listed.next_page_token
    assert names == [["classifiers/model-3", "classifiers/model-2"], [MODEL]] and not token
    for alias in ("a", "b", "c"):
        call(stub, "SetAlias", pb.SetAliasRequest(name=f"aliases/{alias}", model=MODEL))
    first = call(stub, "ListAliases", pb.ListAliasesRequest(page_size=2))
    rest = call(stub, "ListAliases", pb.ListAliasesRequest(page_token=first.next_page_token))
    assert [a.name for a in [*first.aliases, *rest.aliases]] == [f"aliases/{n}" for n in "abc"]


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [({"page_size": -1}, "page_size"), ({"page_token": "nonsense"}, "page_token")],
)
def test_a_page_that_does_not_exist_is_refused(
    stub: Any, request_fields: dict[str, Any], field: str
) -> None:
    for method, request in (
        ("ListModels", pb.ListModelsRequest),
        ("ListAliases", pb.ListAliasesRequest),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(stub, method, request(**request_fields))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert told(rpc_status.from_call(caught.value))[0] == [field]


def test_saliency_comes_as_a_picture_beside_the_answer(stub: Any) -> None:
    answers = ask(stub, [png(0), b""], saliency=True, answer_each=True).classifications
    with Image.open(io.BytesIO(answers[0].saliency_png)) as picture:
        assert picture.format == "PNG" and picture.size == (224, 224)
    assert not answers[1].saliency_png
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, [png()] * 33, saliency=True)
    assert told(rpc_status.from_call(caught.value))[0] == ["options.saliency"]
